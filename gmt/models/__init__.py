"""Models: load a causal LM and its tokenizer from the Hugging Face hub, a local folder, a GGUF file or this package."""

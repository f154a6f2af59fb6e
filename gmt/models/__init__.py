"""Models: load a causal LM and its tokenizer from a hub, a local folder or what ships inside."""

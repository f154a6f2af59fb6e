"""Makes untrained Llamas of several sizes with nano's tokenizer, for `study=model_sizes`: what a step costs.

python recipes/make_sizes.py gmt-results/sizes
gmt sweep --config-dir gmt-results/sizes study=model_sizes model=llama_1m,llama_3m,llama_13m,llama_50m
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gmt.models.pretrained import SHIPPED

SEED = 0
# name -> width, layers; feed-forward layers are 8/3 as wide, and heads have 32 entries
SHAPES = {"llama_1m": (128, 4), "llama_3m": (256, 4), "llama_13m": (512, 4), "llama_50m": (768, 7)}


def main(folder: Path) -> None:
    """Writes each model as a folder, and a config that names it."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "nano")
    (folder / "model").mkdir(parents=True, exist_ok=True)
    for name, (width, layers) in SHAPES.items():
        torch.manual_seed(SEED)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model, path = LlamaForCausalLM(config), (folder / name).resolve()
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
        (folder / "model" / f"{name}.yaml").write_text(
            f"defaults: [pretrained]\nname: {name}\npath: {path}\n", encoding="utf-8"
        )
        print(f"{name}: {model.num_parameters():,} parameters in {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

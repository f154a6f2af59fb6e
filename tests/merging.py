"""Finished runs with planted weights, for tests that merge them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.composition import Composer, hydra_on
from gmt.masking.bits import weights_sha256
from gmt.models.pretrained import SHIPPED
from gmt.runs.build import Run, build
from gmt.runs.final_weights import save_whole
from tests.conftest import CONF
from tests.finished import RESULT

Change = Callable[[str, Tensor], Tensor]


def tiny_model(folder: Path, *, seed: int = 0, rows: int = 0, **settings: int) -> list[str]:
    """Save a Llama of two blocks with nano's tokenizer, and return the overrides that name it.

    Args:
        folder: the folder to save it in.
        seed: the seed of its weights.
        rows: the number of rows of the vocabulary without a token.
        **settings: other settings of LlamaConfig.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "nano")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer) + rows, max_position_embeddings=64, pad_token_id=0, **(sizes | settings)
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ["model=pretrained", f"model.name={folder.name}", f"model.path={folder}"]


def run_with(root: Path, *overrides: str) -> Run:
    """Return a run of the tests' tiny task by sft."""
    with hydra_on(str(CONF)):
        return build(Composer().compose_plain(["task=tiny", "method=sft", f"record.root={root}", *overrides]))


def done(run: Run, change: Change) -> Run:
    """Write a run's record as if its training had applied `change` to each tensor of its base."""
    model = run.model.load_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(change(name, parameter))
    record = run.record
    record.create(run.science, run.config)
    from transformers import AutoTokenizer

    save_whole(model, AutoTokenizer.from_pretrained(SHIPPED / "nano"), record.folder)
    sha256 = weights_sha256(dict(model.named_parameters()))
    record.write("result.json", dataclasses.replace(RESULT, weights_sha256=sha256).to_json())
    record.write("environment.json", {"versions": {}, "commit": "0" * 40, "dirty": False, "device": "cpu"})
    record.finish(attempts=1, started_at=0.0, ended_at=23.0)
    return run


def noise(seed: int) -> Change:
    """Return a change that adds numbers with rounding errors in every operation."""
    generator = torch.Generator().manual_seed(seed)
    return lambda _, tensor: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def weights_of(run: Run) -> dict[str, Tensor]:
    """Return the tensors of a run's stored weights."""
    return load_file(run.record.folder / "weights" / "model.safetensors")


def base_of(run: Run) -> dict[str, Tensor]:
    """Return the tensors of a run's base in the dtype of the training."""
    return {name: parameter.detach() for name, parameter in run.model.load_model().named_parameters()}

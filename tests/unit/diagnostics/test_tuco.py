"""The contribution of fine-tuning where it is known (METHODS, Section 1.6)."""

import copy

import pytest
import torch
from torch import Tensor

from gmt.diagnostics.prompts import run_prompts
from gmt.diagnostics.tuco import Contributions, layers_of
from tests.architectures import tiny_model

PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8]]


def tuco(base: torch.nn.Module, tuned: torch.nn.Module) -> list[float]:
    with Contributions(base, tuned) as contributions:
        run_prompts(tuned, PROMPTS, 2, lambda done, total: None)
    return contributions.take()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3_moe"])
def test_the_contribution_is_zero_for_an_unmoved_model(kind: str) -> None:
    model = tiny_model(kind)
    assert tuco(model, copy.deepcopy(model)) == [0, 0, 0]
    assert not any(layer._forward_hooks for layer in layers_of(model))


def test_the_contribution_is_one_for_a_base_that_adds_nothing_and_between_otherwise() -> None:
    base, tuned = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "proj" in name:
                parameter.mul_(1.5)
    assert all(0.05 < value < 0.95 for value in tuco(base, tuned))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
    assert tuco(base, tuned) == pytest.approx([1, 1, 1])


def test_the_contributions_add_up_to_the_stream() -> None:
    base, tuned = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    seen: list[Tensor] = []
    first, last = layers_of(tuned)[0], layers_of(tuned)[-1]
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, -1]))
    last.register_forward_hook(lambda _, __, out: seen.append((out[0] if isinstance(out, tuple) else out)[:, -1]))
    with Contributions(base, tuned) as contributions:
        run_prompts(tuned, PROMPTS[:1], 1, lambda done, total: None)
    assert contributions._pretrained is not None
    assert contributions._added is not None
    before, after = seen
    torch.testing.assert_close(before + contributions._pretrained + contributions._added, after, rtol=1e-4, atol=1e-5)

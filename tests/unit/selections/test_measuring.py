"""Measures of an example against a model with known probabilities, and against plain autograd."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.errors import UserError
from gmt.selections.completion import loss_measurer
from gmt.selections.donod import Donod, don_and_nod
from gmt.tasks.tokens import IGNORED, Tokens

EXAMPLE: Tokens = {"input_ids": [1, 2, 3, 4], "labels": [IGNORED, IGNORED, 3, 4]}


class Known(nn.Module):
    """Gives token t + 1 the probability 1 / (t + 1) after token t, whatever came before."""

    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        likely = 1 / (input_ids[0] + 1.0)
        logits = ((1 - likely) / 9).log()[:, None].repeat(1, 10)
        logits[range(len(likely)), input_ids[0] + 1] = likely.log()
        return SimpleNamespace(logits=logits[None])


def test_a_loss_is_the_mean_over_the_completion_alone() -> None:
    measured: Any = loss_measurer(Known())  # type: ignore[arg-type]
    assert measured(EXAMPLE) == pytest.approx([(math.log(3) + math.log(4)) / 2])  # of 3 after 2, and of 4 after 3


def test_the_loss_of_a_preference_is_that_of_the_better_answer() -> None:
    measured: Any = loss_measurer(Known())  # type: ignore[arg-type]
    preference: Tokens = {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [9, 9, 9]}
    assert measured(preference) == measured(EXAMPLE)


def tiny(*, is_tied: bool) -> LlamaForCausalLM:
    sizes = {"vocab_size": 12, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=is_tied)
        return LlamaForCausalLM(config).eval()


def donod(step_size: float = 0.1) -> Donod:
    return Donod(name="donod", step_size=step_size, don="largest", fraction=0.5)


def test_don_and_nod_are_those_of_a_step_on_the_output_layer() -> None:
    model = tiny(is_tied=False)
    don, nod = donod().measurer(model)(EXAMPLE)
    before = model.lm_head.weight.detach().clone()
    model(input_ids=torch.tensor([EXAMPLE["input_ids"]]), labels=torch.tensor([EXAMPLE["labels"]])).loss.backward()
    assert model.lm_head.weight.grad is not None
    after = before - 0.1 * model.lm_head.weight.grad
    assert don == pytest.approx(float(before.norm() - after.norm()), abs=1e-6)
    assert nod == pytest.approx(float((before - after).norm()), rel=1e-5)


def test_a_tied_embedding_adds_nothing() -> None:
    tied, apart = tiny(is_tied=True), tiny(is_tied=False)
    apart.load_state_dict(tied.state_dict())
    assert donod().measurer(tied)(EXAMPLE) == donod().measurer(apart)(EXAMPLE)


def test_measuring_does_not_change_the_model() -> None:
    model = tiny(is_tied=True).requires_grad_(False)
    measure = donod().measurer(model)
    assert measure(EXAMPLE) == measure(EXAMPLE)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not model.lm_head._forward_pre_hooks
    assert torch.is_grad_enabled()


def test_a_small_step_keeps_its_digits() -> None:
    weight, gradient = torch.ones(4, 4), torch.full((4, 4), 2.0)
    don, nod = don_and_nod(weight, gradient, 1e-12)  # W' is W in float32
    assert (don, nod) == pytest.approx((8e-12, 8e-12))
    assert don_and_nod(weight, gradient, 1.0) == pytest.approx((0.0, 8.0))  # W' = -W


def test_a_model_without_an_output_layer_is_refused() -> None:
    class Headless(LlamaForCausalLM):
        def get_output_embeddings(self) -> Any:
            return None

    with pytest.raises(UserError, match=r"selection\.name=donod must have a model with an output layer .* type llama"):
        donod().measurer(Headless(tiny(is_tied=True).config))

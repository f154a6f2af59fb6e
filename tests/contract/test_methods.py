"""The laws of every method in conf/method, on a real model and optimizer."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.methods.probing import ProbesExamples
from gmt.methods.protocol import Attached, Method, ReshapesModel
from gmt.methods.source_prompts import ReadsSource
from gmt.training.optimizers import default_groups, make_optimizer
from gmt.training.reshaping import Reshaping
from tests.arms import ARMS, method_of, plain_arm

WITH_RATIO = [arm for arm in ARMS if hasattr(method_of(arm), "mask_ratio")]


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, attention_bias=True, **sizes))


def attach(chosen: Method, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, seed: int) -> Attached:
    if isinstance(chosen, ReadsSource) and chosen.reads_source:
        prompts = [{"input_ids": torch.arange(length)[None]} for length in (3, 7)]
        return chosen.attach_with_source(model, optimizer, seed=seed, facts_every=1, source=lambda: iter(prompts))
    if isinstance(chosen, ProbesExamples) and chosen.num_examples:
        tokens = torch.arange(24).view(2, 12) % 20
        rows = {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)}
        return chosen.attach_with_examples(
            model, optimizer, seed=seed, facts_every=1, batches=lambda size: iter([rows])
        )
    return chosen.attach(model, optimizer, seed=seed, facts_every=1)


def train(
    chosen: Method, *, epochs: int = 2, steps: int = 2, resume_at: int | None = None, seed: int = 1, trained: str = ""
) -> list[Tensor]:
    """Trains under a method; `resume_at` an epoch begins with a method attached anew from its state.

    Parameters without `trained` in their names get no gradient.
    """
    model = tiny_model()
    reshaping = Reshaping(chosen, model, seed=seed)
    names = [name for name, _ in model.named_parameters()]
    groups = default_groups(model, names, lr=0.05, weight_decay=0.1, betas=(0.9, 0.999))
    optimizer = make_optimizer(chosen, model, groups, name="adamw", momentum=None)
    attached = attach(chosen, model, optimizer, seed)
    tokens = torch.arange(36).view(3, 12) % 20
    for epoch in range(epochs):
        if epoch == resume_at:
            state = attached.state_dict()
            attached.detach()
            attached = attach(chosen, model, optimizer, seed)
            attached.load_state_dict(state)
        attached.begin_epoch(epoch)
        for _ in range(steps):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
            for parameter_name, parameter in model.named_parameters():
                if trained not in parameter_name:
                    parameter.grad = None
            optimizer.step()
            facts = attached.facts()
            assert bool(facts) or isinstance(chosen, ReshapesModel)
            assert 0 <= facts.get("density", 1) <= 1
            assert facts.get("mask_seconds", 0) >= 0
    attached.detach()
    reshaping.finish()
    assert not optimizer._optimizer_step_pre_hooks
    assert all(p.requires_grad for p in model.parameters())
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("arm", ARMS)
def test_it_trains_the_same_twice_and_detaches(arm: str) -> None:
    assert same(train(method_of(arm)), train(method_of(arm)))
    assert not same(train(method_of(arm)), train(method_of(arm), epochs=0))


@pytest.mark.parametrize("arm", ARMS)
def test_it_goes_on_from_its_state(arm: str) -> None:
    assert same(train(method_of(arm)), train(method_of(arm), resume_at=1))


@pytest.mark.parametrize("arm", WITH_RATIO)
def test_ratio_zero_is_the_plain_arm_bit_for_bit(arm: str) -> None:
    """But for parameters that the method freezes whatever the ratio: those of no linear layer."""
    without_mask: Any = dataclasses.replace(method_of(arm), mask_ratio=0)  # type: ignore[type-var]
    is_frozen = getattr(without_mask, "parameters", "all") == "linear_alone"
    assert same(train(without_mask), train(method_of(plain_arm()), trained="_proj.weight" if is_frozen else ""))


@pytest.mark.parametrize("arm", ARMS)
def test_its_name_is_its_files(arm: str) -> None:
    assert method_of(arm).name == arm


def test_the_contract_tests_name_no_arm() -> None:
    named = re.compile(rf"method=({'|'.join(ARMS)})\b")
    assert not [path.name for path in Path(__file__).parent.glob("*.py") if named.search(path.read_text("utf-8"))]

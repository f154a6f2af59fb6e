"""The laws of every method in conf/method, on a real model and optimizer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.composition import Composer, config_dir, hydra_on
from gmt.methods.protocol import Method, ReshapesModel
from gmt.runs.build import plug_in
from gmt.training.optimizers import default_groups, make_optimizer
from gmt.training.reshaping import Reshaping

METHODS = sorted(path.stem for path in Path(config_dir() / "method").glob("*.yaml"))


with hydra_on(None):
    WITH_RATIO = [name for name in METHODS if "mask_ratio" in Composer().compose_plain([f"method={name}"])["method"]]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_on(None):
        yield


def method(name: str, *overrides: str) -> Method:
    made: Method = plug_in("method", Composer().compose_plain([f"method={name}", *overrides])["method"])
    return made


def tiny_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, attention_bias=True, **sizes))


def train(
    chosen: Method, *, epochs: int = 2, steps: int = 2, resume_at: int | None = None, seed: int = 1
) -> list[Tensor]:
    """Trains under a method; `resume_at` an epoch begins with a method attached anew from its state."""
    model = tiny_model()
    reshaping = Reshaping(chosen, model, seed=seed)
    names = [name for name, _ in model.named_parameters()]
    groups = default_groups(model, names, lr=0.05, weight_decay=0.1, betas=(0.9, 0.999))
    optimizer = make_optimizer(chosen, model, groups, name="adamw", momentum=None)
    attached = chosen.attach(model, optimizer, seed=seed, facts_every=1)
    tokens = torch.arange(36).view(3, 12) % 20
    for epoch in range(epochs):
        if epoch == resume_at:
            state = attached.state_dict()
            attached.detach()
            attached = chosen.attach(model, optimizer, seed=seed, facts_every=1)
            attached.load_state_dict(state)
        attached.begin_epoch(epoch)
        for _ in range(steps):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
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


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_the_same_twice_and_detaches(name: str) -> None:
    assert same(train(method(name)), train(method(name)))
    assert not same(train(method(name)), train(method(name), epochs=0))


@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_from_its_state(name: str) -> None:
    assert same(train(method(name)), train(method(name), resume_at=1))


@pytest.mark.parametrize("name", WITH_RATIO)
def test_ratio_zero_is_sft_bit_for_bit(name: str) -> None:
    assert same(train(method(name, "method.mask_ratio=0")), train(method("sft")))


@pytest.mark.parametrize("name", METHODS)
def test_its_name_is_its_files(name: str) -> None:
    assert method(name).name == name


def test_hft_freezes_half_of_each_kind_and_anew_each_epoch() -> None:
    model = tiny_model()
    attached = method("hft").attach(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=1, facts_every=1)
    chosen = []
    for epoch in (0, 1):
        attached.begin_epoch(epoch)
        chosen.append(frozenset(name for name, p in model.named_parameters() if not p.requires_grad))
    assert chosen[0] != chosen[1]
    for frozen in chosen:
        attention = [name for name in frozen if ".self_attn." in name]
        feed_forward = [name for name in frozen if ".mlp." in name]
        assert len(attention) == 3 * 2
        assert len(feed_forward) == 1 + 2 + 1  # of three matrices one or two, block by block in turn
        assert frozen == {*attention, *feed_forward}
    total = sum(p.numel() for p in model.parameters())
    frozen_now = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert attached.facts()["density"] == pytest.approx(1 - frozen_now / total)


def test_hft_frozen_matrices_do_not_move_in_their_epoch_even_with_momentum_and_decay() -> None:
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    attached = method("hft").attach(model, optimizer, seed=1, facts_every=1)
    for epoch in range(3):
        attached.begin_epoch(epoch)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        tokens = torch.arange(24).view(2, 12) % 20
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name]) != p.requires_grad, name

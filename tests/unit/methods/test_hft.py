"""Half fine-tuning: which matrices freeze, in each family of models that transformers can build."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from gmt.errors import UserError
from gmt.methods.hft import HalfFineTuning, Halves
from tests.contract.test_methods import tiny_model as tiny_llama
from tests.model_families import FAMILIES, LIKE_LLAMA, UNKNOWN, matrices, model_of

pytestmark = pytest.mark.heavy

HFT = HalfFineTuning(name="hft")


def hft(model: nn.Module, seed: int = 1) -> Halves:
    return HFT.attach(model, torch.optim.SGD(model.parameters()), seed=seed, facts_every=1)


def frozen(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_hft_freezes_half_of_every_part_of_a_block(family: str) -> None:
    _, num_attention, num_feed_forward = FAMILIES[family]
    model = model_of(family)
    every = matrices(model)
    in_blocks = Counter(re.search(r"\.(\d+)\.", name)[1] for name in every)  # type: ignore[index]
    assert in_blocks == {"0": num_attention + num_feed_forward, "1": num_attention + num_feed_forward}
    halves = hft(model)
    share, ever = 0.0, set()
    epochs = 30
    for epoch in range(epochs):
        halves.begin_epoch(epoch)
        chosen = frozen(model)
        assert chosen <= set(every)
        of_part: dict[str, list[bool]] = defaultdict(list)
        for name in every:
            of_part[name.removesuffix(".weight").rpartition(".")[0]].append(name in chosen)
        for part, is_frozen in of_part.items():
            assert abs(sum(is_frozen) - len(is_frozen) / 2) <= 0.5, part
        ever |= chosen
        share += sum(every[name].numel() for name in chosen) / sum(p.numel() for p in every.values()) / epochs
    assert ever == set(every)
    assert share == pytest.approx(0.5, abs=0.1)
    halves.detach()
    assert not frozen(model)


@pytest.mark.parametrize("family", UNKNOWN)
def test_hft_names_the_matrices_that_it_does_not_know(family: str) -> None:
    with pytest.raises(UserError, match=f"can't tell it for {re.escape(UNKNOWN[family][1])}"):
        hft(model_of(family))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m.model.layers[1].add_module("extra", nn.Linear(4, 4)),
            r"can't tell it for model\.layers\.1\.extra\.weight$",
        ),
        (lambda m: [setattr(layer, "mlp", nn.Identity()) for layer in m.model.layers], "has no feed-forward matrices"),
        (lambda m: setattr(m.model, "layers", nn.ModuleList()), "has no attention and no feed-forward matrices"),
    ],
)
def test_hft_refuses_blocks_that_are_not_what_it_halves(change: Callable[[Any], object], said: str) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LIKE_LLAMA))
    change(model)
    with pytest.raises(UserError, match=said):
        hft(model)


@pytest.mark.parametrize("num_layers", [4, 5])
def test_hft_as_its_paper_draws_it_freezes_the_larger_half_in_drawn_layers_and_half_of_the_norms(
    num_layers: int,
) -> None:
    config = AutoConfig.for_model("llama", **LIKE_LLAMA | {"num_hidden_layers": num_layers})
    model = AutoModelForCausalLM.from_config(config)
    paper = HalfFineTuning(name="hft_paper", larger_half="drawn", norms="half")
    halves = paper.attach(model, torch.optim.SGD(model.parameters()), seed=1, facts_every=1)
    larger, norms = set(), set()
    for epoch in range(8):
        halves.begin_epoch(epoch)
        chosen = frozen(model)
        counts = Counter(
            re.sub(r"^model\.layers\.(\d+)\.(self_attn|mlp|\w+norm)\b.*", r"\2 \1", name) for name in chosen
        )
        of_feed_forward = [counts[f"mlp {layer}"] for layer in range(num_layers)]
        assert set(of_feed_forward) == {1, 2}
        assert abs(of_feed_forward.count(2) - num_layers / 2) <= 0.5
        for layer in range(num_layers):
            assert counts[f"self_attn {layer}"] == 2
            assert counts[f"input_layernorm {layer}"] + counts[f"post_attention_layernorm {layer}"] == 1
        larger.add(tuple(of_feed_forward))
        norms.add(frozenset(name for name in chosen if "norm" in name))
    assert min(len(larger), len(norms)) > 2  # drawn anew each epoch
    assert not {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} & chosen
    halves.detach()
    assert not frozen(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_of_the_norms_of_a_block_are_frozen_each_with_its_bias(family: str) -> None:
    model = model_of(family)
    every = {
        name
        for name, p in model.named_parameters()
        if re.search(r"\.\d+\.", name) and p.ndim == 1 and re.search(r"(norm|ln)[\w.]*\.(weight|bias)$", name)
    }
    paper = HalfFineTuning(name="hft_paper", larger_half="drawn", norms="half")
    if not every:
        with pytest.raises(UserError, match=r"method\.norms must be trained for this model"):
            paper.attach(model, torch.optim.SGD(model.parameters()), seed=1, facts_every=1)
        return
    halves = paper.attach(model, torch.optim.SGD(model.parameters()), seed=1, facts_every=1)
    halves.begin_epoch(0)
    modules = {name.rpartition(".")[0] for name in every}
    chosen = {name.rpartition(".")[0] for name in frozen(model) & every}
    assert {name for name in every if name.rpartition(".")[0] in chosen} == frozen(model) & every
    assert abs(len(chosen) - len(modules) / 2) <= 1  # of two blocks
    assert {name for name in frozen(model) - every if name not in matrices(model)} == set()
    halves.detach()


def test_what_hft_draws_for_llama_has_not_changed() -> None:
    model = model_of("llama")
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, _ in model.named_parameters():
        if match := re.search(r"\.(\d+)\.(self_attn|mlp)\.\w+\.weight$", name):
            groups[match[2], int(match[1])].append(name)
    halves = hft(model, seed=7)
    for epoch in range(5):
        halves.begin_epoch(epoch)
        expected = {
            name
            for (kind, block), names in groups.items()
            for name in random.Random(f"7/{epoch}/{kind}/{block}").sample(names, (len(names) + block % 2) // 2)
        }
        assert frozen(model) == expected
    halves.detach()


def test_hft_freezes_half_of_each_kind_and_anew_each_epoch() -> None:
    model = tiny_llama()
    attached = HFT.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), seed=1, facts_every=1)
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
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    attached = HFT.attach(model, optimizer, seed=1, facts_every=1)
    for epoch in range(3):
        attached.begin_epoch(epoch)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        tokens = torch.arange(24).view(2, 12) % 20
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        for name, p in model.named_parameters():
            assert torch.equal(p, before[name]) != p.requires_grad, name


def test_hft_counts_the_entries_of_this_epoch_and_of_all_so_far() -> None:
    model = tiny_llama()
    attached, sizes = hft(model), {name: p.numel() for name, p in model.named_parameters()}
    total, never = sum(sizes.values()), set(sizes)
    for epoch in range(3):
        attached.begin_epoch(epoch)
        never &= frozen(model)
        assert attached.num_trained() == total - sum(sizes[name] for name in frozen(model))
        assert attached.num_touched() == total - sum(sizes[name] for name in never)

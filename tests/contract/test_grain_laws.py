"""The laws of the mask for rows, columns, heads and tensors, for scope=entropy and for moments=packed.

Those of single entries, of the other scopes and moments: test_mask_laws.py."""

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.masking import MaskSpec, attach
from gmt.masking.signals import TABLE
from gmt.masking.spec import ENTROPY, GRAINS, KEEP, MASK_ON, MOMENTS, PACKED, SCOPES
from tests.mask_reference import LOOPS, NO_HEADS, OPTIMIZERS, a_model, reference, same, train

REFRESHES = [1, 2, "once"]
PARTS = 24  # of the specs, for slow tests


def parameters_for(signal: str, grain: str) -> str:
    """A vector has no columns, and no module that is known to read or write it."""
    return "linear" if grain == "column" or TABLE[signal].needs_activations else "all"


@cache
def specs(ratio: float) -> list[MaskSpec]:
    """All that are not in test_mask_laws.py, but for those that MaskSpec refuses (tests/unit/masking/test_spec.py)."""
    axes = itertools.product(GRAINS, TABLE, (*SCOPES, ENTROPY), MASK_ON, (*MOMENTS, PACKED), REFRESHES, KEEP)
    found = []
    for grain, signal, scope, mask_on, moments, refresh, keep in axes:
        with suppress(ValueError):
            spec = MaskSpec(
                mask_ratio=ratio, grain=grain, parameters=parameters_for(signal, grain), signal=signal, scope=scope,
                mask_on=mask_on, moments=moments, refresh=refresh, keep=keep,
                exclude=NO_HEADS if grain == "head" else (),
            )  # fmt: skip
            found.append(spec)
    return [spec for spec in found if not is_of_mask_laws(spec)]


def is_of_mask_laws(spec: MaskSpec) -> bool:
    is_plain = spec.scope in SCOPES and spec.moments in MOMENTS
    return spec.grain == "entry" and is_plain and not TABLE[str(spec.signal)].needs_activations


@cache
def some(ratio: float) -> list[MaskSpec]:
    """A spec of each signal and grain, and one more with entropy and with packed moments; other settings vary."""
    groups: dict[tuple[object, ...], list[MaskSpec]] = {}
    for spec in specs(ratio):
        groups.setdefault((spec.grain, spec.signal, spec.scope == ENTROPY, spec.moments == PACKED), []).append(spec)
    return [group[i * 11 % len(group)] for i, group in enumerate(groups.values())]


def a_third(ratio: float) -> list[MaskSpec]:
    return some(ratio)[::3]


def check_reference(spec: MaskSpec, kind: str) -> None:
    assert same(train(spec, kind), reference(spec, kind)), spec


@pytest.mark.parametrize("all_of", [a_third, some, specs])
def test_the_specs_hold_each_value_of_each_axis(all_of: Callable[[float], list[MaskSpec]]) -> None:
    axes = {
        "scope": (*SCOPES, ENTROPY), "mask_on": MASK_ON, "moments": (*MOMENTS, PACKED), "refresh": REFRESHES,
        "keep": KEEP, "grain": GRAINS, "signal": TABLE,
    }  # fmt: skip
    for name, values in axes.items():
        assert {getattr(spec, name) for spec in all_of(0.6)} == set(values), name
    packed = [spec for spec in all_of(0.6) if spec.moments == PACKED]
    assert {spec.grain for spec in packed} == set(GRAINS)
    assert {spec.scope for spec in packed} == {*SCOPES, ENTROPY}
    assert {spec.scope for spec in all_of(0.6) if spec.grain == "head"} == set(SCOPES)


def kinds(spec: MaskSpec) -> list[str]:
    """Packed moments are of one optimizer."""
    return ["adamw"] if spec.moments == PACKED else list(OPTIMIZERS)


def test_training_equals_the_reference() -> None:
    for i, spec in enumerate(some(0.6)):
        check_reference(spec, kinds(spec)[i % len(kinds(spec))])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(PARTS))
def test_training_equals_the_reference_for_every_spec(first: int) -> None:
    for spec in specs(0.6)[first::PARTS]:
        for kind in kinds(spec):
            check_reference(spec, kind)


def test_ratio_zero_is_the_plain_optimizer_bit_for_bit() -> None:
    plain = {grain: train(None, "adamw", LOOPS[0], grain=grain) for grain in GRAINS}
    for spec in some(0):
        assert same(train(spec, "adamw", LOOPS[0]), plain[spec.grain]), spec


def test_state_goes_through_a_checkpoint() -> None:
    for spec in a_third(0.6):
        assert same(train(spec), train(spec, resume_at=3)), spec


@pytest.mark.slow
@pytest.mark.parametrize("first", range(PARTS))
def test_state_goes_through_a_checkpoint_for_every_spec(first: int) -> None:
    for spec in specs(0.6)[first::PARTS]:
        assert same(train(spec), train(spec, resume_at=3)), spec


@pytest.mark.parametrize("grain", ["row", "column"])
def test_masked_units_never_move_under_update(grain: str) -> None:
    fitting = [row.name for row in TABLE.values() if grain not in row.blind_grains]
    for signal, kind in itertools.product(fitting, OPTIMIZERS):
        spec = MaskSpec(
            mask_ratio=0.5, grain=grain, parameters="linear", signal=signal, mask_on="update", refresh="once"
        )
        model, _ = train(spec, kind)
        for layer, before in zip(model.layers, a_model().layers, strict=True):
            moved = layer[0].weight != before[0].weight
            by_unit = moved if grain == "row" else moved.t()
            assert by_unit.any(1).sum() == 3, spec  # of six, in whole units
            assert torch.equal(by_unit.any(1), by_unit.all(1)), spec


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, **sizes, **heads))


NOT_IN_HEADS = ("*mlp*", "*norm*", "*embed*")


def test_heads_are_rows_of_q_k_v_and_columns_of_o_chosen_by_their_mean() -> None:
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    spec = MaskSpec(mask_ratio=0.5, grain="head", exclude=NOT_IN_HEADS, mask_on="update", refresh="once")
    attach(model, optimizer, spec)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tokens = torch.arange(24).view(2, 12) % 20
    for step in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        if step == 0:
            first = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    for name, p in model.named_parameters():
        if "_proj" not in name or "mlp" in name:
            continue
        moved, gradient = p != before[name], first[name].abs()
        if "o_proj" in name:
            moved, gradient = moved.t(), gradient.t()
        heads, mean_H = moved.reshape(-1, 4 * 16), gradient.reshape(-1, 4 * 16).mean(1)
        expected = mean_H >= mean_H.sort().values[len(mean_H) // 2]
        assert torch.equal(heads.any(1), expected), name
        assert torch.equal(heads.all(1), expected), name


def units_moved(grain: str, signal: str, num_batches: int) -> list[Tensor]:
    """Which entries move in a step over the same 16 rows, cut into batches."""
    model = tiny_llama()
    rows = torch.randint(20, (16, 8), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    exclude = NOT_IN_HEADS if grain == "head" else ()
    parameters = parameters_for(signal, grain)
    scope = "global" if grain == "tensor" else "tensor"
    attach(model, optimizer, MaskSpec(
        mask_ratio=0.5, grain=grain, signal=signal, exclude=exclude, parameters=parameters, scope=scope,
        mask_on="update",
    ))  # fmt: skip
    before = [p.detach().clone() for p in model.parameters()]
    for tokens in rows.chunk(num_batches):
        (model(input_ids=tokens, labels=tokens).loss / num_batches).backward()
    optimizer.step()
    return [p != old for p, old in zip(model.parameters(), before, strict=True)]


@pytest.mark.parametrize("grain", ["row", "column", "head", "tensor"])
def test_a_step_chooses_the_same_units_however_it_is_cut_into_batches(grain: str) -> None:
    for signal in [row.name for row in TABLE.values() if grain not in row.blind_grains]:
        if grain == "head" and TABLE[signal].needs_activations:
            continue  # parameters=linear ranks feed-forward matrices too
        once, in_four = units_moved(grain, signal, 1), units_moved(grain, signal, 4)
        assert all(torch.equal(a, b) for a, b in zip(once, in_four, strict=True)), signal


@pytest.mark.parametrize(
    ("grain", "model", "sentence"),
    [
        ("column", nn.Linear(2, 2), r"grain=column: bias of shape \(2,\) has no columns, so that exclude must name it"),
        ("row", nn.Conv1d(2, 2, 3), r"grain=row: weight of shape \(2, 2, 3\) has no rows"),
        ("head", nn.Linear(2, 2), r"grain=head: weight of shape \(2, 2\) has no heads"),
        ("head", tiny_llama(), r"grain=head: model\.embed_tokens\.weight of shape \(20, 16\) has no heads"),
    ],
)
def test_what_has_no_such_units_is_refused_by_name(grain: str, model: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        attach(model, torch.optim.SGD(model.parameters()), MaskSpec(mask_ratio=0.5, grain=grain))


def test_rows_of_a_transposed_matrix_are_its_output_features() -> None:
    from transformers.pytorch_utils import Conv1D

    model = nn.Sequential(Conv1D(3, 4))  # 3 outputs of 4 inputs, weight [4, 3]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, grain="row"))
    before = model[0].weight.detach().clone()
    (model(torch.ones(2, 4)) * torch.tensor([1.0, 3.0, 2.0])).sum().backward()
    optimizer.step()
    moved = before != model[0].weight
    assert moved.all(0).tolist() == moved.any(0).tolist() == [False, True, True]


def test_units_that_tie_all_stay_and_units_of_zeros_never_do() -> None:
    model = nn.Linear(3, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, grain="row"))
    model.weight.grad = torch.tensor([[1.0, -2, 3], [2, 2, -2], [0, 0, 0], [3, 2, 1]])  # means 2, 2, 0, 2
    optimizer.step()
    facts = mask.facts()
    assert facts is not None
    assert facts.density == 0.75


@pytest.mark.parametrize("parameters", ["linear", "linear_alone"])
def test_parameters_linear_leaves_out_embeddings_head_norms_and_biases(parameters: str) -> None:
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, parameters=parameters))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    linear = {name for name in before if "_proj" in name}
    assert moved == (linear if parameters == "linear_alone" else set(before))
    facts = mask.facts()
    assert facts is not None
    assert facts.num_entries == sum(before[name].numel() for name in linear)
    lone = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="parameters=linear: the optimizer holds no weight of a linear layer"):
        attach(lone, torch.optim.SGD(lone.parameters()), MaskSpec(mask_ratio=0.5, parameters="linear"))


def test_the_number_of_units_kept_is_what_the_ratio_leaves() -> None:
    for ratio, out in itertools.product((0.1, 0.5, 0.7, 0.99), (1, 3, 10)):
        model = nn.Linear(4, out, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        mask = attach(model, optimizer, MaskSpec(mask_ratio=ratio, grain="row"))
        model.weight.grad = torch.randn(out, 4)
        optimizer.step()
        facts = mask.facts()
        assert facts is not None
        assert facts.density * out == pytest.approx(math.ceil((1 - ratio) * out - 1e-9))

"""Sparse deltas: what is applied and reverted, composed, saved and refused."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gmt.delta_files import load_delta, save_delta, save_difference
from gmt.errors import UserError
from gmt.masking import SparseDelta, TensorDelta, apply_delta, compose_deltas, sparse_delta
from gmt.masking.bits import bits_of, bytes_of, weights_sha256
from gmt.masking.deltas import index_dtype

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
SEEDS = st.integers(0, 2**31)
SPECIAL = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45])


class Tied(nn.Module):
    """Two layers that share a weight, a transposed one and a scalar."""

    def __init__(self, dtype: torch.dtype, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(5, 5, dtype=dtype)
        self.head = nn.Linear(5, 5, bias=False, dtype=dtype)
        self.head.weight = self.first.weight
        self.across = nn.Parameter(torch.randn(3, 7).to(dtype).t())
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))


def tuned(base: Tied, seed: int, fraction: float = 0.3) -> Tied:
    """Return a copy of a model with some entries changed, a few to values with bits of their own."""
    generator = torch.Generator().manual_seed(seed)
    model = Tied(base.scale.dtype)
    model.load_state_dict(base.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            change = 0.1 * torch.randn(parameter.shape, generator=generator)
            special = SPECIAL[torch.randint(len(SPECIAL), parameter.shape, generator=generator)]
            new = torch.where(torch.rand(parameter.shape, generator=generator) < 0.2, special, parameter + change)
            is_changed = torch.rand(parameter.shape, generator=generator) < fraction
            parameter.copy_(torch.where(is_changed, new.to(parameter.dtype), parameter))
    return model


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(bits_of(p.detach()), bits_of(q.detach())) for p, q in pairs)


@given(seed=SEEDS, dtype=DTYPES, fraction=st.sampled_from([0.0, 0.1, 1.0]))
@settings(max_examples=12, deadline=None)
def test_apply_gives_the_tuned_bits_and_revert_the_base(seed: int, dtype: torch.dtype, fraction: float) -> None:
    base = Tied(dtype)
    model, applied = tuned(base, seed, fraction), tuned(base, seed, 0.0)
    delta = sparse_delta(model, base)
    revert = apply_delta(applied, delta)
    assert same_bits(applied, model)
    assert not applied.across.is_contiguous()
    again = apply_delta(applied, revert)
    assert same_bits(applied, base)
    assert weights_sha256(dict(base.named_parameters())) == delta.base_sha256 == again.base_sha256


def test_only_changed_entries_are_held_and_tied_weights_once() -> None:
    base = Tied(torch.bfloat16)
    model = tuned(base, 0, 0.0)
    with torch.no_grad():
        model.head.weight[1, 2] += 1
        model.scale.copy_(-0.0)
    base.scale.data.copy_(0.0)
    delta = sparse_delta(model, base)
    assert {name: part.indices_K.tolist() for name, part in delta.tensors.items()} == {
        "first.weight": [7],
        "scale": [0],
    }
    assert delta.num_entries == 2
    assert delta.tensors["first.weight"].indices_K.dtype == torch.int32
    assert delta.tensors["first.weight"].values_K.tolist() == [model.first.weight[1, 2].item()]


def test_indices_are_wide_from_2_to_the_31_entries_on() -> None:
    assert (index_dtype(2**31 - 1), index_dtype(2**31)) == (torch.int32, torch.int64)


@given(seeds=st.lists(SEEDS, min_size=2, max_size=2, unique=True), dtype=DTYPES)
@settings(max_examples=12, deadline=None)
def test_a_composition_is_the_union_and_adds_where_both_change(seeds: list[int], dtype: torch.dtype) -> None:
    base = Tied(dtype)
    models = [finite(tuned(base, seed)) for seed in seeds]
    deltas = [sparse_delta(model, base) for model in models]
    joint = compose_deltas(deltas, add_onto=base)
    swapped = compose_deltas(deltas[::-1], add_onto=base)
    num_conflicts, expected = by_hand(base, models)
    assert joint.num_conflicts == swapped.num_conflicts == num_conflicts
    for composition in (joint, swapped):
        applied = tuned(base, 0, 0.0)
        apply_delta(applied, composition.delta)
        for name, parameter in applied.named_parameters():
            assert torch.equal(parameter, expected[name])
    if num_conflicts:
        with pytest.raises(ValueError, match=f"^the deltas change {num_conflicts} entries of .* add_onto=base adds"):
            compose_deltas(deltas)


def finite(model: Tied) -> Tied:
    for parameter in model.parameters():
        parameter.data.nan_to_num_(1.5, 2.5, 3.5)
    return model


def by_hand(base: Tied, models: list[Tied]) -> tuple[int, dict[str, Tensor]]:
    """Return the number of conflicts and the composed weights, entry by entry."""
    num_conflicts, expected = 0, {}
    pairs = [dict(model.named_parameters()) for model in models]
    for name, parameter in base.named_parameters():
        plain = parameter.detach().clone().contiguous()
        one, other = (pair[name].detach().contiguous().view(-1) for pair in pairs)
        for i, value in enumerate(plain.view(-1).clone()):
            moved = [x[i] for x in (one, other) if bits_of(x[i]) != bits_of(value)]
            num_conflicts += len(moved) == 2 and bool(bits_of(moved[0]) != bits_of(moved[1]))
            if len(moved) == 2:
                wide = [x.float() - value.float() for x in moved]
                plain.view(-1)[i] = (value.float() + (wide[0] + wide[1])).to(plain.dtype)
            elif moved:
                plain.view(-1)[i] = moved[0]
        expected[name] = plain
    return num_conflicts, expected


def test_equal_values_are_no_conflict_and_disjoint_deltas_need_no_base() -> None:
    base = Tied(torch.float32)
    delta = sparse_delta(tuned(base, 1), base)
    halves = [
        SparseDelta(
            tensors={
                name: TensorDelta(indices_K=part.indices_K[half::2], values_K=part.values_K[half::2])
                for name, part in delta.tensors.items()
            },
            base_sha256=delta.base_sha256,
        )
        for half in (0, 1)
    ]
    for parts in (halves, [delta, delta], [delta]):
        joint = compose_deltas(parts)
        assert joint.num_conflicts == 0
        applied = tuned(base, 0, 0.0)
        apply_delta(applied, joint.delta)
        assert same_bits(applied, tuned(base, 1))


def test_another_base_is_refused_and_nothing_is_changed() -> None:
    base = Tied(torch.float32)
    delta = sparse_delta(tuned(base, 1), base)
    other = tuned(base, 2, 0.0)
    with torch.no_grad():
        other.first.bias[0] += 1e-6
    before = {name: p.detach().clone() for name, p in other.named_parameters()}
    with pytest.raises(ValueError, match=r"^the delta belongs to a base with the SHA-256 [0-9a-f]{16}\.\.\., and"):
        apply_delta(other, delta)
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())
    apply_delta(base, delta)
    with pytest.raises(ValueError, match="as it was before any other delta"):
        apply_delta(base, delta)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Tied(torch.bfloat16), r"the delta holds .* in torch\.float32, and the model in torch\.bfloat16"),
        (nn.Linear(5, 5), "the delta changes .*, which the model lacks"),
        (Tied(torch.float32).to("meta"), "a delta needs whole weights, and .* is on the device meta"),
    ],
    ids=["dtype", "names", "meta"],
)
def test_models_that_a_delta_does_not_fit_are_refused(model: nn.Module, match: str) -> None:
    base = Tied(torch.float32)
    with pytest.raises(ValueError, match=match):
        apply_delta(model, sparse_delta(tuned(base, 1), base))


def test_models_and_deltas_that_do_not_belong_together_are_refused() -> None:
    base = Tied(torch.float32)
    with pytest.raises(ValueError, match="must have the same shapes and dtypes"):
        sparse_delta(base, Tied(torch.bfloat16))
    with pytest.raises(ValueError, match="must have the same parameters, and one of them lacks"):
        sparse_delta(base, nn.Linear(5, 5))
    deltas = [sparse_delta(tuned(base, 1), base), sparse_delta(base, tuned(base, 1))]
    with pytest.raises(ValueError, match="must belong to one base, got"):
        compose_deltas(deltas)
    with pytest.raises(ValueError, match="must belong to one base, got no delta"):
        compose_deltas([])
    with pytest.raises(ValueError, match="add_onto must be the deltas' base"):
        compose_deltas(deltas[:1], add_onto=tuned(base, 1))
    with pytest.raises(ValueError, match="must ascend"):
        TensorDelta(indices_K=torch.tensor([1, 1]), values_K=torch.ones(2))
    with pytest.raises(ValueError, match="one value for each"):
        TensorDelta(indices_K=torch.tensor([1]), values_K=torch.ones(2))


@given(seed=SEEDS, dtype=DTYPES)
@settings(max_examples=6, deadline=None)
def test_a_file_gives_the_delta_back(seed: int, dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = Tied(dtype)
    model = tuned(base, seed)
    delta = sparse_delta(model, base)
    folder = tmp_path_factory.mktemp("delta")
    save_delta(delta, folder / "whole", {"run_id": "1"})
    weights = [dict(each.named_parameters()) for each in (model, base)]
    counts = save_difference(*weights, folder / "streamed", base_sha256=delta.base_sha256, metadata={"run_id": "1"})
    assert sum(counts.values()) == delta.num_entries
    assert (folder / "whole").read_bytes() == (folder / "streamed").read_bytes()
    applied = tuned(base, 0, 0.0)
    apply_delta(applied, load_delta(folder / "whole"))
    assert same_bits(applied, model)
    with safe_open(folder / "whole", framework="pt") as file:
        assert file.metadata() == {
            "format": "pt", "gmt_delta_version": "1", "base_sha256": delta.base_sha256, "run_id": "1"
        }  # fmt: skip


def test_files_that_hold_no_delta_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="can't be read as a sparse delta"):
        load_delta(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="can't be read as a sparse delta"):
        load_delta(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(UserError, match="must be a sparse delta of version 1, got a file without a version"):
        load_delta(path)
    own = {"gmt_delta_version": "1", "base_sha256": "0"}
    save_file({"w.indices": torch.tensor([1, 0]), "w.values": torch.ones(2)}, path, metadata=own)
    with pytest.raises(UserError, match="must ascend"):
        load_delta(path)
    save_file({"w.indices": torch.tensor([1, 2])}, path, metadata=own)
    with pytest.raises(UserError, match="can't be read as a sparse delta"):
        load_delta(path)


def test_bytes_are_those_of_the_tensor() -> None:
    tensor = torch.arange(6.0).view(2, 3).t()
    assert bytes(bytes_of(tensor)) == tensor.contiguous().numpy().tobytes()
    assert bytes(bytes_of(torch.empty(0))) == b""

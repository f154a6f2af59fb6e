"""The selection against a full sort, and its decisions at the edges."""

import math
from dataclasses import replace
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach, counting, select_alone, select_over_chunks
from gmt.masking.counting import as_bits
from gmt.masking.random_bits import random_bits
from gmt.masking.rule import Draw, Scores, Selection, num_masked
from gmt.masking.selection import select
from gmt.masking.spec import ENTROPY, SCOPES

pytestmark = pytest.mark.usefixtures("counted_by")

FEW = st.floats(width=16, allow_nan=False, allow_infinity=False)  # few distinct values: many ties and zeros
MANY = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = st.tuples(st.integers(0, 300), st.sampled_from([FEW, MANY])).flatmap(
    lambda drawn: arrays("float32", drawn[0], elements=drawn[1]).map(torch.from_numpy)
)
RATIOS = st.floats(0, 1, exclude_max=True)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KEEPS = st.sampled_from(["largest", "smallest"])


def scores(*tensors: Tensor, chunk: int = select_alone.CHUNK) -> list[Scores]:
    return [
        Scores(chunks=lambda t=t: iter(t.split(chunk)), dtype=t.dtype, num_entries=len(t), shards=None, device=t.device)
        for t in tensors
    ]


def keep_masks(tensors: list[Tensor], ratio: float, **rule: object) -> tuple[list[Tensor], Selection]:
    (chosen,) = select([scores(*tensors)], ratio, **rule)  # type: ignore[arg-type]
    return [chosen.keeps(as_bits(t)) for t in tensors], chosen


def naive(tensors: list[Tensor], ratio: float, keep: str = "largest", rank_zeros: bool = False) -> list[Tensor]:
    """By sorting everything: of n entries the n - m largest, or smallest, that are not zero; ties all stay."""
    everything = torch.cat([t.float().abs() for t in tensors])
    stay = len(everything) - math.floor(Fraction(repr(ratio)) * len(everything))
    candidates = everything if rank_zeros else everything[everything > 0]
    ranked = candidates.sort(descending=keep == "largest").values
    if not len(ranked):
        return [torch.zeros(t.shape, dtype=torch.bool) for t in tensors]
    threshold = ranked[min(stay, len(ranked)) - 1]
    kept = [t.float().abs() >= threshold if keep == "largest" else t.float().abs() <= threshold for t in tensors]
    return kept if rank_zeros else [k & (t != 0) for k, t in zip(kept, tensors, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(x=VECTORS, ratio=RATIOS, keep=KEEPS, rank_zeros=st.booleans())
def test_it_equals_a_full_sort(dtype: torch.dtype, x: Tensor, ratio: float, keep: str, rank_zeros: bool) -> None:
    x = x.to(dtype)
    x[x.isinf()] = 1
    (kept,), chosen = keep_masks([x], ratio, keep=keep, rank_zeros=rank_zeros)
    assert torch.equal(kept, naive([x], ratio, keep, rank_zeros)[0])
    assert chosen.num_kept == int(kept.sum())
    assert chosen.is_finite


@settings(max_examples=60, deadline=None)
@given(xs=st.lists(VECTORS, min_size=1, max_size=4), ratio=RATIOS, keep=KEEPS, dtype=st.sampled_from(DTYPES))
def test_one_threshold_over_tensors_of_several_dtypes_equals_a_full_sorts(
    xs: list[Tensor], ratio: float, keep: str, dtype: torch.dtype
) -> None:
    xs[0] = xs[0].to(dtype)
    xs[0][xs[0].isinf()] = 1
    kept, chosen = keep_masks(xs, ratio, keep=keep)
    for got, expected in zip(kept, naive(xs, ratio, keep), strict=True):
        assert torch.equal(got, expected)
    assert chosen.num_kept == sum(int(k.sum()) for k in kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_groups_large_and_small_are_each_ranked_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_alone, "CHUNK", 1000)
    monkeypatch.setattr(counting, "AT_ONCE", 2500)
    torch.manual_seed(0)
    tensors = [
        (torch.randn(n) * 10.0 ** -(i % 5)).to(dtype) for i, n in enumerate([1, 999, 1000, 1001, 7000, 0, 12] * 3)
    ]
    chosen = select([scores(t, chunk=1000) for t in tensors], 0.8)
    for t, one in zip(tensors, chosen, strict=True):
        assert torch.equal(one.keeps(as_bits(t)), naive([t], 0.8)[0])
        assert one.num_kept == int(one.keeps(as_bits(t)).sum())


@settings(deadline=None)
@given(st.integers(1, 10_000), RATIOS, KEEPS)
def test_distinct_magnitudes_mask_exactly_the_ratio(n: int, ratio: float, keep: str) -> None:
    x = torch.randperm(n, generator=torch.Generator().manual_seed(n)).float() + 1
    (kept,), chosen = keep_masks([x], ratio, keep=keep)
    assert int((~kept).sum()) == num_masked(ratio, n) == n - chosen.num_kept


def test_the_ratio_is_the_decimal_that_was_written() -> None:
    assert num_masked(0.29, 100) == 29
    assert num_masked(0.7, 10) == 7


@given(st.integers(1, 10**9), RATIOS)
def test_something_always_stays(n: int, ratio: float) -> None:
    assert 0 <= num_masked(ratio, n) < n


def test_zeros_are_never_kept_even_if_they_exceed_the_masked_share() -> None:
    x = torch.tensor([0.0, 0.0, 0.0, 1.0, -0.0])
    assert keep_masks([x], 0.2)[0][0].tolist() == [False, False, False, True, False]
    assert keep_masks([x], 0.2, keep="smallest")[0][0].tolist() == [False, False, False, True, False]


def test_zeros_are_values_like_others_where_they_are_ranked() -> None:
    x = torch.tensor([0.0, 2.0, 0.0, 1.0])
    assert keep_masks([x], 0.5, keep="smallest", rank_zeros=True)[0][0].tolist() == [True, False, True, False]
    assert keep_masks([torch.zeros(4)], 0.5, rank_zeros=True)[0][0].all()


def test_ties_at_the_threshold_all_stay() -> None:
    x = torch.tensor([1.0, -2.0, 2.0, 2.0])
    assert keep_masks([x], 0.5)[0][0].tolist() == [False, True, True, True]
    assert keep_masks([x], 0.5, keep="smallest")[0][0].all()


@pytest.mark.parametrize("x", [torch.zeros(0), torch.zeros(3), torch.tensor([5.0]), torch.tensor([0.0])])
def test_empty_zero_and_single_tensors_are_decided(x: Tensor) -> None:
    (kept,), chosen = keep_masks([x], 0.5)
    assert kept.tolist() == (x != 0).tolist()
    assert chosen.num_kept == int((x != 0).sum())
    assert chosen.num_entries == len(x)


def test_denormals_are_ranked_like_others() -> None:
    x = torch.tensor([1e-45, 1e-40, 1e-38, 1.0])
    assert keep_masks([x], 0.5)[0][0].tolist() == [False, False, True, True]


@pytest.mark.parametrize("bits", [1, 1 << 8, 1 << 16])
def test_all_in_one_bin_is_still_exact(bits: int) -> None:
    x = (0x3F800000 + bits * torch.arange(200, dtype=torch.int32)).view(torch.float32)
    shuffled = x[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    (kept,), _ = keep_masks([shuffled], 0.75)
    assert torch.equal(kept, shuffled >= x[150])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [3, 2000])
def test_nan_and_inf_are_found(dtype: torch.dtype, value: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_alone, "CHUNK", 1000)
    x = torch.ones(size, dtype=dtype)
    x[-1] = value
    fine, bad = select([scores(torch.ones(3)), scores(x, chunk=1000)], 0.5)
    assert fine.is_finite
    assert not bad.is_finite


def test_more_groups_than_are_taken_at_once_change_nothing() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(50) for _ in range(41)]
    several = select([scores(t, t) for t in tensors], 0.6)
    alone = select([scores(t) for t in tensors], 0.6)
    assert [s.lowest for s in several] == [s.lowest for s in alone]


SAMPLED = {
    "heavy tails": lambda: torch.randn(3000) * torch.randn(3000),
    "mostly zeros": lambda: torch.randn(3000) * (torch.rand(3000) < 0.1),
    "few values": lambda: torch.randn(3000).round(),
    "all alike": lambda: torch.full((3000,), -2.0),
    "ascending": lambda: torch.arange(3000.0),
    "one large stretch": lambda: torch.cat([torch.rand(2990), 100 + torch.rand(10)]),
}


@pytest.mark.parametrize("keep", ["largest", "smallest"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deviations", [4, 0])  # with 0 most samples mislead
@pytest.mark.parametrize("name", SAMPLED)
def test_the_sample_decides_no_threshold(
    name: str, deviations: int, dtype: torch.dtype, keep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (select_alone, select_over_chunks):
        monkeypatch.setattr(module, "DEVIATIONS", deviations)
    monkeypatch.setattr(select_alone, "FEWEST_SAMPLES", 40)
    torch.manual_seed(0)
    x = SAMPLED[name]().to(dtype)
    for ratio, rank_zeros in ((0.8, False), (0.05, False), (0.999, True), (0.5, True)):
        expected = naive([x], ratio, keep, rank_zeros)[0]
        for parts in (scores(x), scores(*x.split(1100), chunk=700)):
            (chosen,) = select([parts], ratio, keep=keep, rank_zeros=rank_zeros)
            assert torch.equal(chosen.keeps(as_bits(x)), expected)
            assert chosen.num_kept == int(expected.sum())


def test_draws_are_ranked_as_the_hashes_that_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_alone, "FEWEST_SAMPLES", 40)
    draw = Draw(key=(123, 456), start=5)
    for size in (7, 900, 2500):
        monkeypatch.setattr(select_alone, "CHUNK", 1000)
        hashes = random_bits(size, draw.key, start=draw.start, device=torch.device("cpu"))
        (drawn,) = (replace(one, draw=draw) for one in scores(hashes, chunk=1000))
        (chosen,) = select([[drawn]], 0.7, rank_zeros=True)
        assert chosen.lowest == int(hashes.sort().values[num_masked(0.7, size)])
        assert chosen.num_kept == size - num_masked(0.7, size)


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("kind", ["heavy tails", "two heaps", "many ties"])
def test_thresholds_of_large_tensors_are_those_of_a_sort(kind: str, ratio: float) -> None:
    torch.manual_seed(0)
    num = 100_000
    x = torch.randn(num) * torch.randn(num)
    if kind == "two heaps":  # around the threshold of half the tensor there is nothing
        x = torch.where(torch.arange(num) % 2 == 0, 1 + x.abs() * 1e-3, 1e4 + x.abs())
    if kind == "many ties":
        x = x.round(decimals=2)
    expected = (x.abs() >= x.abs().sort().values[num_masked(ratio, num)]) & (x != 0)
    for chosen in select([scores(x), scores(*x.split(30_000))], ratio):
        assert torch.equal(chosen.keeps(as_bits(x)), expected)
        assert chosen.num_kept == int(expected.sum())


def test_ties_between_the_bounds_are_counted_and_not_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_over_chunks, "_Gathered", None)
    x = torch.full((100_000,), -2.0)
    x[:10_000] = torch.rand(10_000)
    (chosen,) = select([scores(*x.split(30_000))], 0.5)
    assert chosen.lowest == int(as_bits(x[-1]))
    assert chosen.num_kept == 90_000


def test_the_buffer_grows_if_more_entries_than_expected_lie_between_the_bounds() -> None:
    gathered = select_over_chunks._Gathered(10)
    chunks = [
        torch.arange(start, start + num, dtype=torch.int32) for start, num in ((0, 9), (9, 30), (39, 0), (39, 500))
    ]
    for chunk in chunks:
        gathered.add(chunk, len(chunk))
    assert gathered.bits_K[: gathered.num].tolist() == list(range(539))
    assert len(gathered.bits_K) > 2 * gathered.num


@pytest.mark.parametrize("scope", [*SCOPES, ENTROPY])
@pytest.mark.parametrize("sizes", [(0, 6), (0,)])
def test_a_parameter_without_entries_is_masked_in_every_scope(scope: str, sizes: tuple[int, ...]) -> None:
    model = nn.ParameterList([nn.Parameter(torch.randn(size)) for size in sizes])
    optimizer = torch.optim.AdamW(model.parameters())
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.5, scope=scope))
    for p in model:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert mask.num_trained() == sum(sizes) / 2

"""The sample of entries that facts are measured on: every row and every column has its part, whatever the shape."""

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskFacts, MaskSpec, attach
from gmt.masking.facts import Sample
from gmt.masking.sampling import drawn, pick, sample_index

FACTS_ENTRIES = 1 << 18

# The matrices of real models: hidden, feed-forward, keys and values, vocabulary, number of layers.
MODELS = {
    "nano": (128, 384, 128, 32, 4),
    "SmolLM2-135M": (576, 1536, 192, 49152, 30),
    "GPT-2": (768, 3072, 2304, 50257, 12),
    "Qwen2.5-0.5B": (896, 4864, 128, 151936, 24),
    "Llama-2-7B": (4096, 11008, 4096, 32000, 32),
    "Llama-2-13B": (5120, 13824, 5120, 32000, 40),
    "Mistral-7B": (4096, 14336, 1024, 32000, 32),
    "Qwen2.5-7B": (3584, 18944, 512, 152064, 28),
}


def shapes(name: str) -> dict[str, tuple[int, int]]:
    hidden, wide, key_value, vocabulary, _ = MODELS[name]
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (key_value, hidden),
        "gate_proj": (wide, hidden),
        "down_proj": (hidden, wide),
        "embed_tokens": (vocabulary, hidden),
    }


def share_of(name: str) -> float:
    *_, layers = MODELS[name]
    per_layer = sum(rows * columns for matrix, (rows, columns) in shapes(name).items() if matrix != "embed_tokens")
    return min(FACTS_ENTRIES / (layers * per_layer + 2 * MODELS[name][0] * MODELS[name][3]), 1.0)


def unevenness(group_S: Tensor, of_all: Tensor) -> float:
    """By how many standard deviations a chi-square of the counts exceeds that of a fair draw."""
    sizes = torch.bincount(of_all).double()
    expected = len(group_S) * sizes / sizes.sum()
    counts = torch.bincount(group_S, minlength=len(sizes)).double()
    return float((((counts - expected).square() / expected).sum() - len(sizes)) / (2 * len(sizes)) ** 0.5)


@pytest.mark.parametrize("model", MODELS)
def test_rows_and_columns_of_real_models_are_covered_evenly(model: str) -> None:
    for name, (rows, columns) in shapes(model).items():
        index_S = drawn(rows * columns, share_of(model), name)
        assert len(index_S) == max(1, round(rows * columns * share_of(model)))
        assert len(index_S.unique()) == len(index_S)
        for along, size in ((index_S // columns, rows), (index_S % columns, columns)):
            every = torch.arange(size)
            for period in (2, 3, 5, 7, 9, 16, 27, 64):
                assert unevenness(along % period, every % period) < 5, (name, size, period)
            for bands in (2, 8, 32):
                assert unevenness(along * bands // size, every * bands // size) < 5, (name, size, bands)


def test_a_sample_has_the_requested_size_for_every_model() -> None:
    for size in (262_145, 282_144, 393_216, 524_288, 524_289, 3_000_000):
        parameter = nn.Parameter(torch.empty(size))
        index = sample_index(parameter, "w", FACTS_ENTRIES / size)
        assert isinstance(index, Tensor)
        assert len(index) == FACTS_ENTRIES
    assert sample_index(nn.Parameter(torch.empty(5)), "w", 1.0) is None


@pytest.mark.heavy
def test_every_entry_is_drawn_as_often_as_any_other() -> None:
    for num_entries in (1, 2, 3, 7, 12, 65, 100):
        times = torch.zeros(num_entries)
        for name in range(500):
            index_S = drawn(num_entries, 0.25, str(name))
            assert torch.equal(index_S, index_S.unique())
            times[index_S] += 1
        expected = 500 * max(1, round(num_entries * 0.25)) / num_entries
        assert (times - expected).abs().max() <= 5 * expected**0.5


def facts_of(columns_that_move: Tensor, facts_entries: int) -> MaskFacts:
    """One step of SGD that moves whole columns of a matrix."""
    model = nn.Linear(len(columns_that_move), 3072, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0), facts_every=1, facts_entries=facts_entries)
    model.weight.grad = columns_that_move.float().expand_as(model.weight).clone()
    optimizer.step()
    facts = mask.facts()
    assert facts is not None
    return facts


@pytest.mark.parametrize("width", [96, 128, 384])
@pytest.mark.parametrize("period", [2, 3, 4])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_what_moved_is_the_fraction_counted_by_hand_where_columns_differ(width: int, period: int, step: int) -> None:
    moves = torch.arange(width) % period == 0
    num_sampled = width * 3072 // step
    measured = facts_of(moves, num_sampled).measured
    assert measured is not None
    by_hand = float(moves.double().mean())
    assert measured.model.num_sampled == num_sampled
    assert abs(measured.model.moved_fraction - by_hand) < 5 * (by_hand * (1 - by_hand) / num_sampled) ** 0.5
    assert measured.model.zero_fraction == pytest.approx(1 - measured.model.moved_fraction)


@pytest.mark.parametrize("signal", ["gradient", "random", "first_moment", "weight_magnitude", "weight_times_gradient"])
def test_the_sampled_mask_is_the_mask(signal: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(96, 96)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.7, signal=signal), facts_every=1, facts_entries=3000)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 96)).pow(2).sum().backward()
        optimizer.step()
    kept = dict(mask._sample.state_dict()["kept"])
    for name, parameter in model.named_parameters():
        index = sample_index(parameter, name, 3000 / (96 * 97))
        assert parameter.grad is not None
        assert torch.equal(kept[name], pick(parameter.grad.flatten(), index) != 0), name


def test_a_training_that_goes_on_measures_the_same_entries() -> None:
    def trained(resume: bool) -> MaskFacts:
        torch.manual_seed(0)
        model = nn.Linear(96, 96)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        mask = attach(model, optimizer, MaskSpec(mask_ratio=0.7), facts_every=1, facts_entries=1000)
        for step in range(4):
            if resume and step == 2:
                state = mask.state_dict()
                mask.detach()
                mask = attach(model, optimizer, MaskSpec(mask_ratio=0.7), facts_every=1)
                mask.load_state_dict(state)
            optimizer.zero_grad()
            model(torch.randn(4, 96)).pow(2).sum().backward()
            optimizer.step()
        facts = mask.facts()
        assert facts is not None
        return facts

    assert trained(resume=True).measured == trained(resume=False).measured


def test_the_state_of_an_earlier_version_is_refused() -> None:
    with pytest.raises(ValueError, match="was saved by an earlier version of gmt, which measured other entries"):
        Sample(10).load_state_dict({"stride": 3, "touched": {}, "weights": {}, "kept": {}})

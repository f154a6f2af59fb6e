"""Ages of entries in a byte each: the same numbers as a count for each entry."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gmt.optimizers.cohorts import ages
from gmt.optimizers.packed_adamw import PackedAdamW
from gmt.training.memory import state_bytes

SIZE, NUM_KEPT = 700, 600


def steps(optimizer: PackedAdamW, p: nn.Parameter, number: int, *, swapped: int) -> Iterator[Tensor]:
    """Take steps, at each of which some entries leave and as many join; give a count of steps for each entry."""
    keep_N = torch.arange(p.numel()) < NUM_KEPT
    count_N = torch.zeros(p.numel(), dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    for step in range(number):
        if step:
            for now, then in ((True, False), (False, True)):
                entries = (keep_N == now).nonzero().flatten()
                keep_N[entries[torch.randperm(len(entries), generator=generator)[:swapped]]] = then
        count_N[~keep_N] = 0
        optimizer.keep(p, keep_N)
        p.grad = torch.ones_like(p)
        optimizer.step()
        count_N[keep_N] += 1
        yield count_N[keep_N]


@pytest.mark.parametrize(("number", "dtype"), [(200, torch.uint8), (400, torch.int16)])
def test_ages_are_those_of_a_count_for_each_entry(number: int, dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.zeros(SIZE))
    optimizer = PackedAdamW([p], age="own")
    for step, count_K in enumerate(steps(optimizer, p, number, swapped=1)):
        age_K = ages(optimizer.state[p])
        assert torch.equal(torch.full_like(count_K, step + 1) if age_K is None else age_K, count_K)
    assert optimizer.state[p]["cohort"].dtype == dtype


def test_own_ages_take_a_byte_a_kept_entry() -> None:
    """9 bytes a kept entry, a bit for each entry, and four for the number of steps and of each cohort."""
    p = nn.Parameter(torch.zeros(SIZE))
    optimizer = PackedAdamW([p], age="own")
    for step, _ in enumerate(steps(optimizer, p, 20, swapped=10), start=1):
        assert state_bytes(optimizer) <= 9 * NUM_KEPT + -(-SIZE // 8) + 4 + 4 * step


def test_a_checkpoint_with_an_age_for_each_entry_goes_on_to_the_same_bits() -> None:
    p = nn.Parameter(torch.zeros(SIZE))
    optimizer = PackedAdamW([p], age="own")
    list(steps(optimizer, p, 5, swapped=10))
    state = copy.deepcopy(optimizer.state_dict())
    q = nn.Parameter(p.detach().clone())
    other = PackedAdamW([q], age="own")
    state["state"][0]["age"] = ages(optimizer.state[p])
    del state["state"][0]["cohort"]
    other.load_state_dict(state)
    for each, stepper in ((p, optimizer), (q, other)):
        each.grad = torch.ones_like(each)
        stepper.step()
    assert torch.equal(p, q)
    assert torch.equal(other.state[q]["cohort"], optimizer.state[p]["cohort"])

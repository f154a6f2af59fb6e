"""Mini-batches of several workers: together those of one, in the same steps, and as many for each."""

from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from gmt.training.batches import WorkerBatches

BLANK = [-1]


@given(num_examples=st.integers(1, 60), size=st.integers(1, 7), num_workers=st.integers(1, 5), share=st.integers(1, 3))
def test_workers_see_in_a_step_what_one_would_see(num_examples: int, size: int, num_workers: int, share: int) -> None:
    batches = BatchSampler(SequentialSampler(range(num_examples)), size, drop_last=False)
    per_worker = [
        WorkerBatches(batches, index=index, num_workers=num_workers, blank=BLANK) for index in range(num_workers)
    ]
    assert len({len(batches) for batches in per_worker}) == 1
    assert all(len(batches) == len(list(batches)) for batches in per_worker)
    expected, found = list(batches), [list(batches) for batches in per_worker]
    for step in range(-(-len(expected) // (share * num_workers))):
        of_one = expected[step * share * num_workers : (step + 1) * share * num_workers]
        of_all = [batch for batches in found for batch in batches[step * share : (step + 1) * share]]
        assert sorted(batch for batch in of_all if batch != BLANK) == of_one

"""A method that freezes parameters as it attaches, with checkpointed activations on two gloo processes."""

from pathlib import Path

import pytest
import torch

from gmt.methods.protocol import TrainsInPhases
from tests.arms import ARMS, method_of, reads_examples, works_on_two_workers
from tests.contract.test_workers import assert_same_training, the_run, trained, two_workers
from tests.processes import in_ranks

CHECKPOINTED = "model.gradient_checkpointing=true"


def freezes(arm: str) -> bool:
    """Return whether an arm trains the weights of linear layers alone, whose others never get a gradient."""
    method = method_of(arm)
    is_plain = works_on_two_workers(arm) and not reads_examples(arm) and not isinstance(method, TrainsInPhases)
    return is_plain and getattr(method, "parameters", None) == "linear_alone"


ARM = next(filter(freezes, ARMS))


def work(root: Path) -> None:
    """Train as one of two workers; the first saves what comes out."""
    outcome = trained(the_run(root / "two", ARM, *two_workers("ddp"), CHECKPOINTED))
    if torch.distributed.get_rank() == 0:
        torch.save(outcome, root / "two.pt")


@pytest.mark.slow
def test_two_workers_train_as_one_where_activations_are_checkpointed(tmp_path: Path) -> None:
    assert in_ranks(work, 2, tmp_path) == [0, 0]
    found, expected = (
        torch.load(tmp_path / "two.pt", weights_only=True),
        trained(the_run(tmp_path / "one", ARM, CHECKPOINTED)),
    )
    assert_same_training(found, expected)
    base = dict(the_run(tmp_path, ARM).model.load_model().named_parameters())
    moved = {name for name, weight in found["weights"].items() if not torch.equal(weight, base[name])}
    assert 0 < len(moved) < len(base)
    assert moved == {name for name, weight in expected["weights"].items() if not torch.equal(weight, base[name])}
    assert_same_training(expected, trained(the_run(tmp_path / "plain", ARM)))

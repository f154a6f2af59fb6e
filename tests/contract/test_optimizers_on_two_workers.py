"""Two gloo processes train as one: by every optimizer, and by methods with groups, an optimizer or a loss term."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmt.methods.l2_sp import L2ToStartingPoint
from gmt.methods.layerwise import LayerwiseRates
from gmt.methods.protocol import AddsLoss, MakesGroups, Method, ReshapesModel, maker_of_optimizer
from gmt.training.optimizers import OPTIMIZERS, is_installed
from tests.arms import ARMS, method_of, works_on_two_workers
from tests.processes import in_ranks
from tests.unit.training.test_loss_terms import LossAgain
from tests.unit.training.test_optimizers import SFT, settings_of, tiny_model, trained

GROUPS = LayerwiseRates(name="groups", rate_decay=0.5)


def changes_the_step(arm: str) -> bool:
    """Return whether an arm makes an optimizer or its groups, or adds to the loss, and does not reshape the model.

    tests/contract/test_workers.py trains those that reshape the model.
    """
    method = method_of(arm)
    if isinstance(method, ReshapesModel):
        return False
    return isinstance(method, MakesGroups | AddsLoss) or maker_of_optimizer(method) is not None


CASES: dict[str, tuple[Method, dict[str, Any]]] = {
    **{name: (SFT, settings_of(name)) for name in OPTIMIZERS if is_installed(name)},
    **{arm: (method_of(arm), {}) for arm in ARMS if changes_the_step(arm) and works_on_two_workers(arm)},
    "groups": (GROUPS, {}),
    "groups_sharded": (GROUPS, {"sharding": "fsdp"}),
    "a_term_of_its_weights": (L2ToStartingPoint(name="pull", strength=3.0), {}),
    "a_term_of_its_batches": (LossAgain(name="again"), {}),
}
# Of what the training changes, in the Euclidean norm. The workers add up in another order, and a last bit of a tiny
# gradient turns a sign (lion, cautious) around; a wrong batch changes as much as the training.
TOLERANCE = 0.1


def work(root: Path) -> None:
    """Train every case as one of two workers; the first saves the weights."""
    for name, (method, changes) in CASES.items():
        weights = trained(root / "two" / name, method, **changes)
        if torch.distributed.get_rank() == 0:
            torch.save(weights, root / f"{name}.pt")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    assert in_ranks(work, 2, folder) == [0, 0]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_workers_train_as_one(name: str, root: Path) -> None:
    method, changes = CASES[name]
    found: dict[str, Tensor] = torch.load(root / f"{name}.pt", weights_only=True)
    expected = trained(root / "one" / name, method, **{**changes, "sharding": "none"})
    start = dict(tiny_model().named_parameters())
    off = sum(float((found[name] - weight).square().sum()) for name, weight in expected.items()) ** 0.5
    moved = sum(float((weight - start[name]).square().sum()) for name, weight in expected.items()) ** 0.5
    assert moved > 0
    assert off < TOLERANCE * moved

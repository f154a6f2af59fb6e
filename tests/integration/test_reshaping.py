"""A method that reshapes the model is refused in a real training, on which nothing is then evaluated."""

from pathlib import Path

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import build
from gmt.runs.execute import execute
from tests.conftest import CONF
from tests.contract.test_workers import KINDS, the_run, trained, two_workers
from tests.processes import in_ranks


def test_adapters_that_a_method_adds_are_refused_and_not_trained(tmp_path: Path) -> None:
    with hydra_on(str(CONF)):
        settings = ["task=tiny", "tracking=none", "method=sft", "method._target_=tests.reshaping.Lora"]
        run = build(Composer().compose_plain([f"record.root={tmp_path}/results", *settings]))
    with pytest.raises(
        UserError, match=r"^method sft: attach adds parameter .*lora_A.* and \d+ more and replaces .*module"
    ):
        execute(run)
    assert run.record.status()["error_kind"] == "user"
    assert not [row for row in run.record.metrics()[0] if "train/loss" in row]


def refused_on_a_worker(folder: Path) -> None:
    """One of two workers, by DDP and by FSDP2; a method that only freezes trains beside it."""
    for kind in KINDS:
        with pytest.raises(UserError, match=r"^method sft: attach adds parameter "):
            trained(the_run(folder / kind, "sft", "method._target_=tests.reshaping.Lora", *two_workers(kind)))
        assert trained(the_run(folder / f"{kind}-hft", "hft", *two_workers(kind)))["curve"]


@pytest.mark.slow
def test_adapters_that_a_method_adds_are_refused_on_two_workers(tmp_path: Path) -> None:
    assert in_ranks(refused_on_a_worker, 2, tmp_path) == [0, 0]

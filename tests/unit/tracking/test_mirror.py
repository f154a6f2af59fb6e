"""The mirror waits for no store, goes on after an outage, and says once what is the matter."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.tracking import mirror
from gmt.tracking.mirror import Mirror, Mirrored, Opened
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings
from tests.processes import wait_for

pytestmark = pytest.mark.heavy


class Store(MlflowView):
    """An sqlite store that can be away, and that can refuse a run."""

    def __init__(self, folder: Path):
        super().__init__(TrackingSettings(uri=f"sqlite:///{folder}/m.db", artifacts=None, experiment="e"))
        self.is_away, self.refused, self.followed_elsewhere = False, "", False
        self.written: list[tuple[str, bool]] = []

    def sync(self, record: RunRecord, *, name: str, parent: str | None, tags: Mapping[str, str], final: bool) -> bool:
        if self.is_away or name == self.refused:
            raise ConnectionError(name)
        if self.followed_elsewhere:
            return False
        self.written.append((name, final))
        return True

    def answers(self) -> bool:
        return not self.is_away


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_POLL_S", "_FIRST_PAUSE_S", "_LONGEST_PAUSE_S"):
        monkeypatch.setattr(mirror, name, 0.01)


def run(folder: Path, name: str) -> Mirrored:
    return Mirrored(record=RunRecord(folder, name), name=name, tags={})


def test_changes_during_an_outage_are_written_after_it(tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    store.is_away = True
    with Mirror(lambda: Opened(view=store), said.append, "gmt sync") as made:
        made.look(run(tmp_path, "a"), final=False)
        made.look(run(tmp_path, "b"), final=True)
        wait_for(lambda: said, 120)
        made.look(run(tmp_path, "a"), final=True)
        store.is_away = False
        wait_for(lambda: len(store.written) == 2, 120)
    assert sorted(store.written) == [("a", True), ("b", True)]
    assert said == ["warning: MLflow does not answer (a); the run records have everything"]


def test_a_run_that_another_process_leaves_is_mirrored(tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    store.followed_elsewhere = True
    with Mirror(lambda: Opened(view=store), said.append, "gmt sync") as made:
        made.look(run(tmp_path, "a"), final=False)
        time.sleep(0.1)
        store.followed_elsewhere = False
        wait_for(lambda: store.written, 120)
    assert (store.written, said) == ([("a", False)], [])


def test_one_runs_fault_costs_no_other_run(tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    store.refused = "a"
    with Mirror(lambda: Opened(view=store), said.append, "gmt sync study=x") as made:
        for name in ("a", "b"):
            made.look(run(tmp_path, name), final=True)
        wait_for(lambda: store.written, 120)
    assert set(store.written) == {("b", True)}
    assert said == [
        "warning: MLflow refuses the values of a (a); the run records have everything",
        "warning: MLflow lacks values of 1 run; the records have them, `gmt sync study=x` writes them",
    ]


def test_a_store_that_does_not_open_is_tried_again(tmp_path: Path) -> None:
    store, said, asked = Store(tmp_path), list[str](), list[int]()

    def opening() -> Opened:
        asked.append(1)
        if len(asked) < 3:
            raise UserError("away")
        return Opened(view=store)

    with Mirror(opening, said.append, "gmt sync") as made:
        made.look(run(tmp_path, "a"), final=True)
        wait_for(lambda: store.written, 120)
    assert (store.written, len(asked)) == ([("a", True)], 3)
    assert said == ["warning: MLflow does not answer (away); the run records have everything"]


def test_a_store_that_stays_away_is_left_behind(tmp_path: Path) -> None:
    store, said = Store(tmp_path), list[str]()
    store.is_away = True
    with Mirror(lambda: Opened(view=store), said.append, "gmt sync") as made:
        made.look(run(tmp_path, "a"), final=True)
    assert "lacks values of 1 run; " in said[-1]

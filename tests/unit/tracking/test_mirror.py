"""The mirror waits for no store, continues after an outage, and prints each fault once."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.tracking import mirror as module
from gmt.tracking.mirror import Mirror, MirroredRun, OpenStore
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings
from tests.processes import wait_for

pytestmark = pytest.mark.heavy


class Store(MlflowView):
    """An sqlite store that can stop answering (`is_away`) and refuse a run."""

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
        monkeypatch.setattr(module, name, 0.01)


def run(folder: Path, name: str) -> MirroredRun:
    return MirroredRun(record=RunRecord(folder, name), name=name, tags={})


def test_changes_during_an_outage_are_written_after_it(tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    store.is_away = True
    with Mirror(lambda: OpenStore(view=store), lines.append, "gmt sync") as mirror:
        mirror.note_change(run(tmp_path, "a"), final=False)
        mirror.note_change(run(tmp_path, "b"), final=True)
        wait_for(lambda: lines, 120)
        mirror.note_change(run(tmp_path, "a"), final=True)
        store.is_away = False
        wait_for(lambda: len(store.written) == 2, 120)
    assert sorted(store.written) == [("a", True), ("b", True)]
    assert lines == ["warning: MLflow does not answer (a); the run records have everything"]


def test_a_run_is_mirrored_once_another_process_stops_mirroring_it(tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    store.followed_elsewhere = True
    with Mirror(lambda: OpenStore(view=store), lines.append, "gmt sync") as mirror:
        mirror.note_change(run(tmp_path, "a"), final=False)
        time.sleep(0.1)
        store.followed_elsewhere = False
        wait_for(lambda: store.written, 120)
    assert (store.written, lines) == ([("a", False)], [])


def test_a_run_that_mlflow_refuses_does_not_stop_the_others(tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    store.refused = "a"
    with Mirror(lambda: OpenStore(view=store), lines.append, "gmt sync study=x") as mirror:
        for name in ("a", "b"):
            mirror.note_change(run(tmp_path, name), final=True)
        wait_for(lambda: store.written, 120)
    assert set(store.written) == {("b", True)}
    assert lines == [
        "warning: MLflow refuses the values of a (a); the run records have everything",
        "warning: MLflow lacks values of 1 run; the records have them, `gmt sync study=x` writes them",
    ]


def test_opening_a_store_is_tried_again(tmp_path: Path) -> None:
    store, lines, attempts = Store(tmp_path), list[str](), list[int]()

    def open_store() -> OpenStore:
        attempts.append(1)
        if len(attempts) < 3:
            raise UserError("away")
        return OpenStore(view=store)

    with Mirror(open_store, lines.append, "gmt sync") as mirror:
        mirror.note_change(run(tmp_path, "a"), final=True)
        wait_for(lambda: store.written, 120)
    assert (store.written, len(attempts)) == ([("a", True)], 3)
    assert lines == ["warning: MLflow does not answer (away); the run records have everything"]


def test_the_mirror_ends_with_a_warning_if_the_store_never_answers(tmp_path: Path) -> None:
    store, lines = Store(tmp_path), list[str]()
    store.is_away = True
    with Mirror(lambda: OpenStore(view=store), lines.append, "gmt sync") as mirror:
        mirror.note_change(run(tmp_path, "a"), final=True)
    assert "lacks values of 1 run; " in lines[-1]

"""Short runs of a config, each in a process of its own that is forked from one with the libraries in it."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gmt.checks.process import MEASURED, Part, do_part
from gmt.composition import with_values
from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.runs.attempt import Outcome
from gmt.runs.build import Run, build

_LOOK_EVERY_S = 0.02
_AFTER_ANOTHER_S = 5.0  # that a worker has left when another has failed


@dataclass(frozen=True, kw_only=True)
class Done:
    """How a short run ended.

    Args:
        state: `done`, `failed`, `refused` by a sentence, `killed`, or `died` without having been killed.
        sentence: of a failure.
        record: what is there of the run.
    """

    state: str
    sentence: str
    record: RunRecord


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a diagnostic.

    Args:
        state, sentence: as of `Done`.
        rows: that were measured.
    """

    state: str
    sentence: str
    rows: Sequence[Mapping[str, Any]]


class ShortRuns:
    """Does runs of one config, with changes.

    Args:
        config: resolved; of a run of seconds.
        folder: for records; runs share the base's answers in it.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path):
        self.config, self._folder = config, folder
        self._number = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["gmt.checks.preloaded"])

    def built(self, changes: Mapping[str, Any] | None = None) -> Run:
        """Return the run that `do` does, unless it can't be built."""
        return build(self._config(changes or {}))

    def do(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        workers: int = 1,
        kill_after: int | None = None,
        stays: bool = False,
    ) -> Done:
        """Do a run to its end.

        Args:
            changes: values by their path in the config, e.g. `{"train.precision": "bf16"}`.
            workers: processes that train it together.
            kill_after: see `Part`; the next run of the same id goes on where this one was killed.
            stays: whether the record is left where others find it by its id; else another run of this id begins anew.
        """
        scratch = self._scratch()
        config = self._config({**(changes or {}), "resources.workers": workers})
        try:
            run = build(config)
        except UserError as error:
            return Done(state="refused", sentence="; ".join(error.sentences), record=RunRecord(scratch, "none"))
        state, sentence = self._in_processes(config, scratch, workers, kill_after=kill_after)
        record = run.record
        if state == "killed" or stays or not record.folder.exists():
            return Done(state=state, sentence=sentence, record=record)
        moved = record.folder.rename(scratch / "record")
        return Done(state=state, sentence=sentence + _where(state, moved), record=RunRecord(scratch, moved.name))

    def measure(self, diagnostic: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Measured:
        """Measure a diagnostic on a finished run whose record has stayed.

        Args:
            diagnostic: its config.
            changes: of the run.
        """
        scratch = self._scratch()
        state, sentence = self._in_processes(self._config(changes or {}), scratch, 1, diagnostic=diagnostic)
        file = scratch / MEASURED
        rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        return Measured(state=state, sentence=sentence, rows=rows)

    def _scratch(self) -> Path:
        self._number += 1
        scratch = self._folder / f"run{self._number}"
        scratch.mkdir(parents=True)
        return scratch

    def _config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return with_values(self.config, {**changes, "record.root": str(self._folder / "results")})

    def _in_processes(self, config: Mapping[str, Any], scratch: Path, workers: int, **how: Any) -> tuple[str, str]:
        parts = [
            Part(
                **{"kill_after": None, **how},
                worker=worker,
                workers=workers,
                meeting=scratch / "meeting",
                outcome=scratch / f"outcome{worker}.json",
                output=scratch / f"output{worker}.txt",
            )
            for worker in range(workers)
        ]
        processes = [self._context.Process(target=do_part, args=(config, part)) for part in parts]
        for process in processes:
            process.start()
        _join(processes)
        ends = [_end(process, part) for process, part in zip(processes, parts, strict=True)]
        return next((end for end in ends if end[0] not in ("done", "killed", "ended")), ends[0])


def _join(processes: Sequence[BaseProcess]) -> None:
    """Wait for all; where one has failed, others wait for it in vain and are ended."""
    failed_at: float | None = None
    while any(process.is_alive() for process in processes):
        if failed_at is None and any(process.exitcode for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _AFTER_ANOTHER_S:
            for process in processes:
                process.kill()
        time.sleep(_LOOK_EVERY_S)
    for process in processes:
        process.join()


def _end(process: BaseProcess, part: Part) -> tuple[str, str]:
    if part.outcome.exists():
        outcome = Outcome(**json.loads(part.outcome.read_text(encoding="utf-8")))
        if outcome.state == "failed" and outcome.kind == "user":
            return "refused", outcome.error or ""
        return outcome.state, outcome.error or ""
    if part.kill_after is not None and process.exitcode == -9:
        return "killed", ""
    if part.worker > 0 or process.exitcode == -9:
        return "ended", "the process was ended, since another had failed"
    lines = part.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "died", f"the process ended with exit code {process.exitcode}: {lines[-1] if lines else 'it said nothing'}"


def _where(state: str, record: Path) -> str:
    """Return the line of code that a recorded traceback ends at, in brackets."""
    if state != "failed" or not (record / "error.txt").exists():
        return ""
    text = (record / "error.txt").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith('File "')]
    return f" ({lines[-1]})" if lines else ""

"""Executes short runs of a config, each in a new process forked from a process that has imported the libraries."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gmt.checks.process import MEASURED, Part, execute_part
from gmt.composition import with_values
from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.runs.attempt import Outcome
from gmt.runs.build import Run, build
from gmt.runs.recorded_failure import without_command

_POLL_INTERVAL_S = 0.02
_GRACE_S = 5.0  # for the other workers to end after one has failed


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a short run ended.

    Args:
        state: `done`, `failed`, or another state of an attempt (see gmt.runs.attempt.Outcome); `refused` for a wrong
            setting; `killed` as requested; `died` by itself; `ended`, since another worker had failed.
        sentence: the fault; empty without one.
        record: the record of the run, as far as it exists.
    """

    state: str
    sentence: str
    record: RunRecord


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How the measurement of a diagnostic ended.

    Args:
        state, sentence: as in `RunEnd`.
        rows: the measured rows.
    """

    state: str
    sentence: str
    rows: Sequence[Mapping[str, Any]]


class ShortRuns:
    """Executes runs of one config, with changes to it.

    Args:
        config: the resolved config of a run that takes seconds.
        folder: the folder for records; it also stores the base's answers, which the runs share.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path):
        self.config, self._folder = config, folder
        self._number = 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["gmt.checks.preloaded"])

    def built(self, changes: Mapping[str, Any] | None = None) -> Run:
        """Return the run that `execute` would execute.

        Raises:
            UserError: the config does not build.
        """
        return build(self._config(changes or {}))

    def execute(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        workers: int = 1,
        kill_after: int | None = None,
        leave_record: bool = False,
    ) -> RunEnd:
        """Execute a run to its end.

        Args:
            changes: values by their path in the config, e.g. `{"train.precision": "bf16"}`.
            workers: the number of processes that train it together.
            kill_after: see `Part`; the next run of the same id resumes the killed one.
            leave_record: whether the record stays at its place, where other runs read it; if not, it is moved away, so
                that the next run of the same id starts anew.
        """
        scratch = self._scratch()
        config = self._config({**(changes or {}), "resources.workers": workers})
        try:
            run = build(config)
        except UserError as error:
            return RunEnd(state="refused", sentence="; ".join(error.sentences), record=RunRecord(scratch, "none"))
        state, sentence = self._in_processes(config, scratch, workers, kill_after=kill_after)
        record = run.record
        if state == "killed" or leave_record or not record.folder.exists():
            return RunEnd(state=state, sentence=sentence, record=record)
        moved = record.folder.rename(scratch / "record")
        return RunEnd(state=state, sentence=sentence + _last_line(state, moved), record=RunRecord(scratch, moved.name))

    def measure(self, diagnostic: Mapping[str, Any]) -> Measurement:
        """Measure a diagnostic on the run without changes, which `execute` has finished with `leave_record`.

        Args:
            diagnostic: the config of the diagnostic.
        """
        scratch = self._scratch()
        state, sentence = self._in_processes(self._config({}), scratch, 1, diagnostic=diagnostic)
        file = scratch / MEASURED
        rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        return Measurement(state=state, sentence=sentence, rows=rows)

    def _scratch(self) -> Path:
        self._number += 1
        scratch = self._folder / f"run{self._number}"
        scratch.mkdir(parents=True)
        return scratch

    def _config(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return with_values(self.config, {**changes, "record.root": str(self._folder / "results")})

    def _in_processes(
        self, config: Mapping[str, Any], scratch: Path, workers: int, **part_settings: Any
    ) -> tuple[str, str]:
        parts = [
            Part(
                **part_settings,
                worker=worker,
                workers=workers,
                meeting=scratch / "meeting",
                outcome=scratch / f"outcome{worker}.json",
                output=scratch / f"output{worker}.txt",
            )
            for worker in range(workers)
        ]
        processes = [self._context.Process(target=execute_part, args=(config, part)) for part in parts]
        for process in processes:
            process.start()
        _join(processes)
        ends = [_end(process, part) for process, part in zip(processes, parts, strict=True)]
        return next((end for end in ends if end[0] not in ("done", "killed", "ended")), ends[0])


def _join(processes: Sequence[BaseProcess]) -> None:
    """Wait for all processes; soon after one has failed, kill the others, which would wait for it for ever."""
    failed_at: float | None = None
    while any(process.is_alive() for process in processes):
        if failed_at is None and any(process.exitcode for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_S:
            for process in processes:
                process.kill()
        time.sleep(_POLL_INTERVAL_S)
    for process in processes:
        process.join()


def _end(process: BaseProcess, part: Part) -> tuple[str, str]:
    if part.outcome.exists():
        outcome = Outcome(**json.loads(part.outcome.read_text(encoding="utf-8")))
        if outcome.state == "failed" and outcome.kind == "user":
            return "refused", outcome.error or ""
        return outcome.state, without_command(outcome.error or "")
    if part.kill_after is not None and process.exitcode == -9:
        return "killed", ""
    if part.worker > 0 or process.exitcode == -9:
        return "ended", "the process was killed, since another one had failed"
    lines = part.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last_line = lines[-1] if lines else "it printed nothing"
    return "died", f"the process ended with exit code {process.exitcode}: {last_line}"


def _last_line(state: str, record: Path) -> str:
    """Return the last line of code of a recorded traceback, in brackets; empty if the run did not fail."""
    if state != "failed" or not (record / "error.txt").exists():
        return ""
    text = (record / "error.txt").read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith('File "')]
    return f" ({lines[-1]})" if lines else ""

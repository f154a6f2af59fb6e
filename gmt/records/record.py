"""The run record: a folder that holds all there is to know of a run. Every file is written whole or not at all.

config.json         run id, science, and the whole resolved config
status.json         state, attempts, times, error, the failures of all attempts; at the end, digests of the other files
environment.json    versions, commit, hardware
metrics.jsonl       one line for each logged step
before.json         evaluation of the base
selection.jsonl     which examples were trained on, and by what score, if not all were
answers_*.jsonl     what the model answered
result.json         what came out; written last
weights/            final weights as safetensors
checkpoint/         while the run is not done
evaluation/         likewise: suites that are asked already
diagnostics/        measurements of the finished run; see gmt.records.diagnoses
asking.txt          while something is being evaluated
log.txt, error.txt  what the libraries said; the traceback of the last failure
hang.txt            where the run stood when it was ended for making no progress (hang-start.txt: as workers started)
"""

import json
import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from gmt.credentials import without_secrets
from gmt.errors import UserError
from gmt.machine_faults import machine_faults_first
from gmt.records.digests import change_in, digest_of, digests_at_the_end
from gmt.records.identity import run_id
from gmt.records.reading import object_of, objects_of
from gmt.records.result import Result
from gmt.removal import remove

_ASKING = "asking.txt"
_PROBE_S = 2.0  # `state` of another process holds the lock for an instant

Position = tuple[int, int]  # which file, and how many of its bytes
NOWHERE: Position = (0, 0)

State = Literal["to do", "running", "interrupted", "stopped", "failed", "diverged", "changed", "done"]


class RecordBusy(Exception):
    """Another process is at work on this run."""


class RunRecord:
    """The record of one run, below the folder of all runs; making one reads and writes nothing."""

    def __init__(self, runs: Path, id: str):
        self.id = id
        self.folder = runs / id
        self.checkpoints = self.folder / "checkpoint"

    def create(self, science: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Writes config.json if it isn't there, with passwords and tokens of the config as ***.

        Raises:
            UserError: what is there no longer matches its id.
        """
        if self.exists():
            self.check()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shown = {"run_id": self.id, "science": science, "config": without_secrets(config)}
        self.write("config.json", shown)

    def exists(self) -> bool:
        """Whether the run was ever begun."""
        return (self.folder / "config.json").exists()

    def check(self) -> None:
        """Holds the stored config against the id.

        Raises:
            UserError: they differ, or config.json can't be read.
        """
        stored = self.read("config.json")
        science = stored.get("science")
        if not isinstance(science, dict) or run_id(science) != self.id:
            raise UserError(
                f"{self.folder / 'config.json'} was changed: its science no longer hashes to the run id {self.id}; "
                "restore it, or delete the folder to run it anew"
            )

    def state(self, also: Collection[str] = ()) -> State:
        """What became of the run; `interrupted` if it was running and nobody is at work on it.

        Args:
            also: which of the large files are hashed to tell whether a run that is done is `changed`; see `change`.
        """
        if not self.exists():
            return "to do"
        if not (self.folder / "status.json").exists():
            return "interrupted"
        status = self.read("status.json")
        state: State = status["state"]
        if state not in get_args(State):
            raise UserError(f"{self.folder / 'status.json'} must hold a state, got {state!r}")
        if state == "running" and not self._locked():
            return "interrupted"
        return "changed" if self._change(status, also) is not None else state

    def change(self, also: Collection[str] = ()) -> str | None:
        """Return a sentence on a file of a finished run that is not what it was when the run ended, None without one.

        The record of a run that ended before digests were written has nothing to be held against.

        Args:
            also: which of the files in gmt.records.digests.LARGE are hashed; of the others, the sizes are compared.

        Raises:
            MachineFault: the disk fails.
        """
        change = self._change(self.status(), also)
        return None if change is None else self.changed_in_words(change)

    def changed_in_words(self, change: str) -> str:
        """Return the sentence on a change, with the remedy."""
        remedy = f"restore the file, or delete {self.folder} to run it anew"
        return f"run {self.id} was changed since it ended: {change}; {remedy}"

    def check_unchanged(self, also: Collection[str] = ()) -> None:
        """Refuse a finished run that is not what it was when it ended; see `change`.

        Raises:
            UserError: with the sentence.
        """
        if (sentence := self.change(also)) is not None:
            raise UserError(sentence)

    def _change(self, status: Mapping[str, Any], also: Collection[str]) -> str | None:
        if status.get("state") != "done" or "digests" not in status:
            return None
        return change_in(self.folder, status["digests"], also)

    def finish(self, **details: Any) -> None:
        """Sets the state `done`, with the digests of all that the run has written, in one piece."""
        self.set_status("done", digests=digests_at_the_end(self.folder), **details)

    def has_digests(self) -> bool:
        """Whether a run that is done was made after digests were written, so that a change of its files is seen."""
        return "digests" in self.status()

    def status(self) -> dict[str, Any]:
        """status.json, empty if there is none."""
        return self.read("status.json") if (self.folder / "status.json").exists() else {}

    def set_status(self, state: State, **details: Any) -> None:
        """Writes status.json; keeps what it held under other keys."""
        self.write("status.json", self.status() | {"state": state, "updated_at": time.time()} | details)

    def note_failure(self, state: State, kind: str, error: str) -> None:
        """Sets the status after a failure, and adds it to the list of all; an attempt that had not begun has no end."""
        status, now, error = self.status(), time.time(), without_secrets(error)
        failures = [*status.get("failures", []), {"kind": kind, "error": error, "at": now}]
        ended = {"ended_at": now} if status.get("state") == "running" else {}
        self.set_status(state, error=error, error_kind=kind, failures=failures, **ended)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the record.

        Raises:
            UserError: the file can't be read as a JSON object.
            MachineFault: the disk fails.
        """
        path = self.folder / name
        try:
            with machine_faults_first(str(path)):  # nothing that would be mended by deleting the folder
                return object_of(path.read_bytes(), path)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error}; delete the run's folder to run it anew") from error

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """A JSON-lines file of the record.

        Raises:
            UserError: the file can't be read as JSON objects.
            MachineFault: the disk fails.
        """
        path = self.folder / name
        try:
            with machine_faults_first(str(path)):
                return objects_of(path.read_bytes().splitlines(), path)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error}; delete the run's folder to run it anew") from error

    def result(self) -> Result:
        """Return the result of a finished run.

        Raises:
            UserError: result.json can't be read, or lacks a value that every run writes.
            MachineFault: the disk fails.
        """
        return Result.from_json(self.read("result.json"))

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file of the record, whole or not at all."""
        write_whole(self.folder / name, json.dumps(value, indent=2, sort_keys=True) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a JSON-lines file of the record, whole or not at all."""
        write_whole(self.folder / name, "".join(json.dumps(row) + "\n" for row in rows))

    def write_later(self, name: str, text: str) -> None:
        """Writes a file into the record of a run that is done and locked, whole or not at all, and its digest.

        The digest comes first, beside that of the file that is there, so that a crash in between changes nothing.
        """
        status, path = self.status(), self.folder / name
        if "digests" in status:
            now = [digest_of(path.read_bytes())] if path.exists() else []
            digests = status["digests"] | {name: [*now, digest_of(text.encode())]}
            self.set_status(status["state"], digests=digests)
        write_whole(path, text)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a line to metrics.jsonl; a line that a kill cut short is left out by `metrics`."""
        line = json.dumps({"step": step, "time": time.time(), **metrics}) + "\n"
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def metrics(self, position: Position = NOWHERE) -> tuple[list[dict[str, Any]], Position]:
        """The whole lines of metrics.jsonl behind a position, and the position behind them.

        A resumed run writes the file anew without the steps that it repeats: it is then read from its beginning.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return [], position
        with path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            offset = position[1] if position[0] == inode else 0
            file.seek(offset)
            whole = file.read().split(b"\n")[:-1]
        return objects_of(whole, path), (inode, offset + sum(len(line) + 1 for line in whole))

    def keep_metrics_until(self, step: int) -> None:
        """Drops the lines after `step`, so that a resumed run doesn't log a step twice."""
        rows, _ = self.metrics()
        self.write_lines("metrics.jsonl", (row for row in rows if row["step"] <= step))

    def note_asking(self, asking: str | None) -> None:
        """Says what is being evaluated, or that nothing is; soon out of date, so nothing waits for the disk."""
        if asking is None:
            remove(self.folder / _ASKING, self.folder)
        else:
            (self.folder / _ASKING).write_text(asking, encoding="utf-8")

    def asking(self) -> str | None:
        """What is being evaluated, e.g. `gsm8k 128 of 1,319`."""
        try:
            return (self.folder / _ASKING).read_text(encoding="utf-8") or None
        except FileNotFoundError:
            return None

    def drop_checkpoints(self) -> None:
        """Deletes the checkpoints: a run that is done is not resumed."""
        with suppress(OSError):
            remove(self.checkpoints, self.folder)

    def drop_evaluation(self) -> None:
        """Deletes what was asked already, once the record holds its answers."""
        with suppress(OSError):
            remove(self.folder / "evaluation", self.folder)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Holds the run's lock, which the kernel takes back from a process that dies.

        Raises:
            RecordBusy: another process holds it.
        """
        try:
            with FileLock(self.folder / "lock", timeout=_PROBE_S, poll_interval=0.01):
                yield
        except Timeout as error:
            raise RecordBusy(f"run {self.id} is being worked on by another process") from error

    def _locked(self) -> bool:
        try:
            with FileLock(self.folder / "lock", timeout=0):
                return False
        except Timeout:
            return True


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all, by renaming a finished and synced one into place."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        remove(temporary, path.parent)  # it is there only if something failed

"""The run record: the folder that stores everything about a run. Every file is written whole or not at all.

config.json         run id, science, and the whole resolved config
status.json         state, attempts, times, error, the failures of all attempts; at the end, digests of the other files
environment.json    versions, commit, hardware
metrics.jsonl       one line for each logged step
before.json         evaluation of the base
selection.jsonl     the examples that a selection chose, with their scores; only with a selection
answers_*.jsonl     the model's answers
result.json         the result; written last
weights/            final weights as safetensors
checkpoint/         checkpoints; only while the run is not done
evaluation/         scores of the suites evaluated so far; only while the run is not done
diagnostics/        measurements of the finished run; see gmt.records.diagnoses
evaluation.txt      the progress of an evaluation; only during one
log.txt, error.txt  log messages of the libraries; the traceback of the last failure
hang.txt            stack traces of a run that was ended for lack of progress (hang-start.txt: while workers started)
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

_EVALUATION = "evaluation.txt"
_LOCK_TIMEOUT_S = 2.0  # above 0, since `state` in another process holds the lock for an instant

Position = tuple[int, int]  # the inode of a file, and an offset in bytes
NOWHERE: Position = (0, 0)
_NUMBERS = frozenset({"attempts", "started_at", "ended_at", "updated_at", "seconds_before"})  # in status.json

State = Literal["to do", "running", "interrupted", "stopped", "failed", "diverged", "changed", "done"]


class RecordBusy(Exception):
    """Another process is working on this run."""


class RunRecord:
    """The record of one run, below the folder of all runs; constructing it reads and writes nothing."""

    def __init__(self, runs: Path, id: str):
        self.id = id
        self.folder = runs / id
        self.checkpoints = self.folder / "checkpoint"

    def create(self, science: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Write config.json, with passwords and tokens shown as ***, unless the file exists.

        Raises:
            UserError: the existing config.json no longer matches the run id.
        """
        if self.exists():
            self.check()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"run_id": self.id, "science": science, "config": without_secrets(config)}
        self.write("config.json", content)

    def exists(self) -> bool:
        """Return whether the run has a record, which it gets when it begins for the first time."""
        return (self.folder / "config.json").exists()

    def check(self) -> None:
        """Refuse a record whose stored config does not match its run id.

        Raises:
            UserError: config.json does not match the id, or can't be read.
        """
        stored = self.read("config.json")
        science = stored.get("science")
        if not isinstance(science, dict) or run_id(science) != self.id:
            raise UserError(
                f"{self.folder / 'config.json'} was changed: its science no longer hashes to the run id {self.id}; "
                "restore it, or delete the folder to run it anew"
            )

    def state(self, also: Collection[str] = ()) -> State:
        """Return the run's state; `interrupted` if status.json says `running` and no process works on the run.

        Args:
            also: the large files to hash when a finished run is checked for changes; see `change`.
        """
        if not self.exists():
            return "to do"
        if not (self.folder / "status.json").exists():
            return "interrupted"
        status = self.read("status.json")
        state: State = status["state"]
        if state not in get_args(State):
            raise UserError(f"{self.folder / 'status.json'} must hold a state, got {state!r}")
        if state == "running" and not self._is_locked():
            return "interrupted"
        return "changed" if self._change(status, also) is not None else state

    def change(self, also: Collection[str] = ()) -> str | None:
        """Return a sentence on a file of a finished run that has changed since the run ended; None if none has.

        Records of older versions have no digests, so changes of their files can't be detected.

        Args:
            also: the files in gmt.records.digests.LARGE to hash; of the others in LARGE only the sizes are compared.

        Raises:
            MachineFault: the disk fails.
        """
        change = self._change(self.status(), also)
        return None if change is None else self.changed_in_words(change)

    def changed_in_words(self, change: str) -> str:
        """Return a sentence on a change, with its remedy."""
        remedy = f"restore the file, or delete {self.folder} to run it anew"
        return f"run {self.id} was changed since it ended: {change}; {remedy}"

    def check_unchanged(self, also: Collection[str] = ()) -> None:
        """Refuse a finished run whose files have changed since it ended; see `change`.

        Raises:
            UserError: a file has changed.
        """
        if (sentence := self.change(also)) is not None:
            raise UserError(sentence)

    def _change(self, status: Mapping[str, Any], also: Collection[str]) -> str | None:
        if status.get("state") != "done" or "digests" not in status:
            return None
        return change_in(self.folder, status["digests"], also)

    def finish(self, **details: Any) -> None:
        """Set the state `done`, together with the digests of the run's files, in one write."""
        self.set_status("done", digests=digests_at_the_end(self.folder), **details)

    def has_digests(self) -> bool:
        """Return whether a finished run has digests, by which changes of its files are detected."""
        return "digests" in self.status()

    def status(self) -> dict[str, Any]:
        """Return the content of status.json; empty if there is none.

        Raises:
            UserError: the file can't be read as a JSON object, or a number in it is none.
            MachineFault: the disk fails.
        """
        path = self.folder / "status.json"
        status = self.read(path.name) if path.exists() else {}
        for key in _NUMBERS & status.keys():
            if status[key] is not None and (isinstance(status[key], bool) or not isinstance(status[key], int | float)):
                remedy = "delete the run's folder to run it anew"
                raise UserError(f"{path} must hold a number or null as {key}, got {status[key]!r:.80}; {remedy}")
        return status

    def set_status(self, state: State, **details: Any) -> None:
        """Write the state and details into status.json; its other keys stay."""
        self.write("status.json", self.status() | {"state": state, "updated_at": time.time()} | details)

    def note_failure(self, state: State, kind: str, error: str) -> None:
        """Add a failure to the list in status.json and set the state; set ended_at too if the state was `running`."""
        status, now, error = self.status(), time.time(), without_secrets(error)
        failures = [*status.get("failures", []), {"kind": kind, "error": error, "at": now}]
        ended = {"ended_at": now} if status.get("state") == "running" else {}
        self.set_status(state, error=error, error_kind=kind, failures=failures, **ended)

    def read(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file of the record.

        Raises:
            UserError: the file can't be read as a JSON object.
            MachineFault: the disk fails.
        """
        path = self.folder / name
        try:
            with machine_faults_first(str(path)):  # such faults need another remedy than deleting the folder
                return object_of(path.read_bytes(), path)
        except OSError as error:
            raise UserError(f"{path} can't be read: {error}; delete the run's folder to run it anew") from error

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Return the JSON objects in a JSON-lines file of the record.

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
        """Write a JSON file of the record, whole or not at all."""
        write_whole(self.folder / name, json.dumps(value, indent=2, sort_keys=True) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSON-lines file of the record, whole or not at all."""
        write_whole(self.folder / name, "".join(json.dumps(row) + "\n" for row in rows))

    def write_later(self, name: str, text: str) -> None:
        """Write a file and its digest into the record of a run that is done and locked, whole or not at all.

        The new digest is written before the file, and beside the old digest, so that after a crash in between the
        existing file still matches.
        """
        status, path = self.status(), self.folder / name
        if "digests" in status:
            current = [digest_of(path.read_bytes())] if path.exists() else []
            digests = status["digests"] | {name: [*current, digest_of(text.encode())]}
            self.set_status(status["state"], digests=digests)
        write_whole(path, text)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl; `metrics` ignores a line that a kill cut short."""
        line = json.dumps({"step": step, "time": time.time(), **metrics}) + "\n"
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def metrics(self, position: Position = NOWHERE) -> tuple[list[dict[str, Any]], Position]:
        """Return the complete lines of metrics.jsonl after a position, and the position after them.

        A resumed run writes a new file without the steps that it repeats; that file is read from its beginning.
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
        """Remove the lines of metrics.jsonl after `step`, so that a resumed run does not log a step twice."""
        rows, _ = self.metrics()
        self.write_lines("metrics.jsonl", (row for row in rows if row["step"] <= step))

    def note_evaluation(self, progress: str | None) -> None:
        """Write the progress of an evaluation, or remove it (None); not synced to disk, since it is replaced soon."""
        if progress is None:
            remove(self.folder / _EVALUATION, self.folder)
        else:
            (self.folder / _EVALUATION).write_text(progress, encoding="utf-8")

    def evaluation_progress(self) -> str | None:
        """Return the progress of an evaluation, e.g. `gsm8k 128 of 1,319`; None outside of one."""
        try:
            return (self.folder / _EVALUATION).read_text(encoding="utf-8") or None
        except FileNotFoundError:
            return None

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints, since a finished run is not resumed."""
        with suppress(OSError):
            remove(self.checkpoints, self.folder)

    def drop_evaluation(self) -> None:
        """Delete the scores of single suites, once the record holds all answers."""
        with suppress(OSError):
            remove(self.folder / "evaluation", self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, which the kernel releases if the process dies.

        Raises:
            RecordBusy: another process holds it.
        """
        try:
            with FileLock(self.folder / "lock", timeout=_LOCK_TIMEOUT_S, poll_interval=0.01):
                yield
        except Timeout as error:
            raise RecordBusy(f"run {self.id} is being worked on by another process") from error

    def _is_locked(self) -> bool:
        try:
            with FileLock(self.folder / "lock", timeout=0):
                return False
        except Timeout:
            return True


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, by renaming a complete and synced file into place."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        remove(temporary, path.parent)  # exists only if something failed

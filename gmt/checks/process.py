"""Executes one run, or one worker's part of it, in a process of a check. Importing this module imports no torch."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gmt.runs.attempt import outcome_of
from gmt.runs.build import Run, build

MEASURED = "measured.json"
_TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of one process in a run.

    Args:
        worker: the number of this worker, from 0.
        workers: the number of workers; 1 needs no process group.
        meeting: a file for the rendezvous of the workers; it must not exist.
        outcome: the file for the outcome, written unless the process dies.
        output: the file for standard output and standard error.
        kill_after: a number of steps; the process kills itself with SIGKILL in the step after them, once their
            checkpoint exists. 0: as soon as it trains or merges; None: never.
        diagnostic: the config of a diagnostic to measure on the finished run; None: execute the run.
    """

    worker: int
    workers: int
    meeting: Path
    outcome: Path
    output: Path
    kill_after: int | None = None
    diagnostic: Mapping[str, Any] | None = None


def execute_part(config: Mapping[str, Any], part: Part) -> None:
    """Execute a run, or a worker's part of it, or measure a diagnostic on it, and write the outcome."""
    with part.output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    action = _measure if part.diagnostic is not None else _execute_alone if part.workers == 1 else _execute_as_worker
    outcome = outcome_of(lambda: action(build(config), part))
    part.outcome.write_text(json.dumps(vars(outcome)), encoding="utf-8")
    if outcome.state != "done":
        raise SystemExit(1)  # the other workers would wait for this one


def _execute_alone(run: Run, part: Part) -> None:
    from gmt.runs.execute import execute
    from gmt.runs.phases import num_steps_done
    from gmt.training.control import Control

    def kill_if_due() -> None:
        if part.kill_after is not None and num_steps_done(run.method, run.record.checkpoints) >= part.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    execute(run, Control(on_progress=kill_if_due))


def _measure(run: Run, part: Part) -> None:
    from gmt.runs.diagnose import Diagnosing

    assert part.diagnostic is not None
    diagnosis = Diagnosing(part.diagnostic).measure(run)
    part.outcome.with_name(MEASURED).write_text(json.dumps(diagnosis.rows), encoding="utf-8")


def _execute_as_worker(run: Run, part: Part) -> None:
    import torch
    from torch import distributed

    from gmt.runs.workers import execute_on_worker

    os.environ |= {"RANK": str(part.worker), "LOCAL_RANK": str(part.worker), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"WORLD_SIZE": str(part.workers), "LOCAL_WORLD_SIZE": str(part.workers)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # required, but unused: a file store makes the group
    torch.set_num_threads(1)
    store = distributed.FileStore(str(part.meeting), part.workers)  # type: ignore[attr-defined]  # not in __all__
    timeout = timedelta(seconds=_TIMEOUT_S)
    distributed.init_process_group("gloo", store=store, rank=part.worker, world_size=part.workers, timeout=timeout)
    execute_on_worker(run, part.outcome.parent / "nobody-stops")
    distributed.destroy_process_group()

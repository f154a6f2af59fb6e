"""One attempt at a planned run inside a launcher's worker: takes a frozen config and returns the outcome as a value."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.errors import Interrupted, MachineFault, RunFailed, StoppedEarly, UserError
from gmt.garbage import no_collections
from gmt.plug_ins import in_words
from gmt.records.record import RecordBusy
from gmt.runs.build import build
from gmt.runs.failures import kind_of
from gmt.runs.hermetic import remove_variables
from gmt.runs.stall import end_on_stall

_CHECK_INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Args:
        state: `done`, `failed`, `interrupted`, `stopped`, or `busy` if another process is working on the run.
        kind: the kind of a failure (see gmt.runs.failures); None without a failure.
        error: the failure in one sentence, or why the run was stopped.
    """

    state: str
    kind: str | None = None
    error: str | None = None


def get_ready(config: Mapping[str, Any]) -> None:
    """Import libraries and prepare a run's examples before its attempt, since both take seconds.

    Args:
        config: the resolved config of a run that this process will attempt; the attempt reports the config's faults.
    """
    remove_variables()  # set by this worker's node; a process that has imported torch has removed them already
    with no_collections(), suppress(UserError):
        import gmt.runs.execute  # noqa: F401
        from gmt.runs.prepare import prepare

        prepare(build(config))  # may import libraries that the task needs


def attempt(config: Mapping[str, Any], stop: Path, report_score: Callable[[int, float], bool]) -> Outcome:
    """Execute a run, or resume it.

    Args:
        config: the resolved config, as it was when the sweep was planned.
        stop: a file; once it exists, the run ends after its next step.
        report_score: called with the step and the target score of each intermediate evaluation; returns whether to
            continue.
    """

    def execute_run() -> None:
        remove_variables()  # set by this worker's node
        run = build(config)
        if run.record.state() == "done":
            return
        with no_collections():
            from gmt.runs.execute import execute
        from gmt.training.control import Control
        from gmt.training.memory import spare_libraries

        spare_libraries()
        run.record.folder.mkdir(parents=True, exist_ok=True)
        with end_on_stall(run.resources.stall_limit_s, run.record.folder) as on_progress:
            execute(run, Control(should_stop=existence_check(stop), on_progress=on_progress, report_score=report_score))

    outcome = outcome_of(execute_run)
    from gmt.training.memory import give_back

    give_back()  # the worker process executes further runs, which may need more memory
    return outcome


def outcome_of(execute_run: Callable[[], None]) -> Outcome:
    """Call a function that executes a run, and return how the run ended.

    Args:
        execute_run: returns once the run is done; otherwise raises the errors of `execute`.
    """
    try:
        execute_run()
    except UserError as error:
        return Outcome(state="failed", kind=kind_of(error), error="; ".join(error.sentences))
    except RunFailed as error:
        return Outcome(state="failed", kind=error.kind, error=str(error))
    except MachineFault as error:
        return Outcome(state="failed", kind="infrastructure", error=str(error))
    except OSError as error:
        return Outcome(state="failed", kind=kind_of(error), error=f"{type(error).__name__}: {error}")
    except SystemExit as error:  # a plug-in's, before the run has begun
        return Outcome(state="failed", kind="error", error=f"a plug-in has called sys.exit: {in_words(error)}")
    except RecordBusy:
        return Outcome(state="busy")
    except Interrupted:
        return Outcome(state="interrupted")
    except StoppedEarly as stopped:
        return Outcome(state="stopped", error=str(stopped))
    return Outcome(state="done")


def existence_check(path: Path) -> Callable[[], bool]:
    """Return a function that says whether a file exists; it reads the disk, which may be remote, every 0.5 s."""
    checked_at, exists = 0.0, False

    def file_exists() -> bool:
        nonlocal checked_at, exists
        if time.monotonic() - checked_at >= _CHECK_INTERVAL_S:
            checked_at, exists = time.monotonic(), path.exists()
        return exists

    return file_exists

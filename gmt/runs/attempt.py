"""One attempt at a planned run inside a launcher's worker: frozen config in, outcome out, nothing raised on purpose."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.errors import Interrupted, MachineFault, RunFailed, StoppedEarly, UserError
from gmt.records.record import RecordBusy
from gmt.runs.build import build
from gmt.runs.failures import kind_of
from gmt.runs.hermetic import take_out
from gmt.runs.stall import no_longer_than

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Args:
        state: `done`, `failed`, `interrupted`, `stopped`, or `busy` where another process is at work on the run.
        kind: of a failure, see gmt.runs.failures.
        error: the failure in one sentence.
    """

    state: str
    kind: str | None = None
    error: str | None = None


def attempt(config: Mapping[str, Any], stop: Path, go_on: Callable[[int, float], bool]) -> Outcome:
    """Does a run, or goes on with it.

    Args:
        config: the resolved config, as it was when the sweep was planned.
        stop: the run ends after its next step once this file exists.
        go_on: told of intermediate evaluations; False stops the run early.
    """

    def do() -> None:
        take_out()  # what the node sets where this worker runs; torch is not imported yet
        run = build(config)
        if run.record.state() == "done":
            return
        from gmt.runs.execute import execute
        from gmt.training.control import Control

        run.record.folder.mkdir(parents=True, exist_ok=True)
        with no_longer_than(run.resources.stall_limit_s, run.record.folder) as on_progress:
            execute(run, Control(should_stop=seen(stop), on_progress=on_progress, go_on=go_on))

    outcome = outcome_of(do)
    from gmt.training.memory import give_back

    give_back()  # the worker stays, and its next run may be larger
    return outcome


def outcome_of(do: Callable[[], None]) -> Outcome:
    """Does a run and says how it ended.

    Args:
        do: returns if the run is done, or else raises as `execute` does.
    """
    try:
        do()
    except UserError as error:
        return Outcome(state="failed", kind=kind_of(error), error="; ".join(error.sentences))
    except RunFailed as error:
        return Outcome(state="failed", kind=error.kind, error=str(error))
    except MachineFault as error:
        return Outcome(state="failed", kind="infrastructure", error=str(error))
    except OSError as error:
        return Outcome(state="failed", kind=kind_of(error), error=f"{type(error).__name__}: {error}")
    except RecordBusy:
        return Outcome(state="busy")
    except Interrupted:
        return Outcome(state="interrupted")
    except StoppedEarly as stopped:
        return Outcome(state="stopped", error=str(stopped))
    return Outcome(state="done")


def seen(path: Path) -> Callable[[], bool]:
    """Whether a file exists; looks twice a second at most, since the folder may lie on a network."""
    looked, there = 0.0, False

    def is_there() -> bool:
        nonlocal looked, there
        if time.monotonic() - looked >= _LOOK_EVERY_S:
            looked, there = time.monotonic(), path.exists()
        return there

    return is_there

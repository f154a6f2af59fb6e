"""Job ids that number the attempts at a sweep; no id is used twice, and no sweep runs twice at a time."""

import re
from collections.abc import Iterable

from gmt.cluster import JobState, SweepJob
from gmt.errors import UserError


def next_id(job: SweepJob, known: Iterable[JobState]) -> str:
    """Return the id of the next attempt: NAME-1, NAME-2 and so on.

    Raises:
        UserError: an attempt is waiting or running.
    """
    attempts = [(number, state) for state in known if (number := _attempt(job.name, state.id)) is not None]
    for _, state in attempts:
        refuse_if_active(state)
    return f"{job.name}-{max((number for number, _ in attempts), default=0) + 1}"


def refuse_if_active(state: JobState) -> None:
    """Refuse a sweep that is waiting or running already.

    Raises:
        UserError: the sweep is waiting or running.
    """
    if state.active:
        raise UserError(
            f"the same sweep is under way as job {state.id} ({state.state}): follow it with `gmt logs {state.id}`, "
            f"or end it with `gmt stop {state.id}` first"
        )


def sweep_of(job_id: str) -> str:
    """Return the name of the sweep from the id of an attempt."""
    return re.sub(r"-\d+$", "", job_id)


def _attempt(name: str, job_id: str) -> int | None:
    number = job_id.removeprefix(f"{name}-")
    return int(number) if number != job_id and number.isdigit() else None

"""Why a worker died, from what Ray says and from what the worker left in its record."""

from pathlib import Path

from ray.exceptions import ActorUnschedulableError, RayActorError, RayTaskError

from gmt.runs import stall


def kind_of_death(error: Exception, folder: Path) -> tuple[str, str]:
    """The kind of a failure (gmt.runs.failures) and a sentence for it.

    Args:
        error: what Ray raised for the worker's task.
        folder: of the run's record, where a hang leaves its trace.
    """
    text = str(error)
    hang = folder / stall.FILE
    if hang.exists() and hang.stat().st_size:
        return "infrastructure", f"no progress for resources.stall_limit_s; {hang} shows where it hung"
    if isinstance(error, RayTaskError):
        return "error", f"{type(error.cause).__name__}: {error.cause}"
    if isinstance(error, RayActorError) and (error.preempted or ("node" in text and "died" in text)):
        return "preempted", "its node was lost"
    if "memory" in text.lower() and "oom" in text.lower():
        return "infrastructure", "Ray ended its worker because the node ran out of memory"
    if isinstance(error, ActorUnschedulableError):
        return "infrastructure", "Ray could not place it on any node"
    return "infrastructure", f"its worker died: {' '.join(text.split())[:300]}"

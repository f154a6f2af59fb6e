"""Asks before a sweep that will cost much."""

from collections.abc import Callable
from dataclasses import dataclass

from gmt import settings
from gmt.errors import UserError
from gmt.studies.estimate import estimate
from gmt.studies.plan import Plan


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What holds for a sweep as a whole.

    Args:
        confirm_above_gpu_hours: a sweep that is estimated to cost more asks first; None never asks.
    """

    confirm_above_gpu_hours: float | None

    def __post_init__(self) -> None:
        if self.confirm_above_gpu_hours is not None:
            settings.number(
                "sweep.confirm_above_gpu_hours", self.confirm_above_gpu_hours, "must be at least 0 or null", low=0
            )


def confirm(plan: Plan, limit: SweepSettings, ask: Callable[[str], str] | None, *, num_gpus: int) -> None:
    """Lets a cheap sweep pass, and asks about a dear one.

    Args:
        plan: what is about to be started.
        limit: the settings.
        ask: puts a question and returns the answer; None where nobody is there to answer.
        num_gpus: the GPUs where the runs will be.

    Raises:
        UserError: nobody agreed; nothing was started.
    """
    hours = limit.confirm_above_gpu_hours
    if hours is None or not any(planned.run.resources.num_gpus(num_gpus) for planned in plan.runs):
        return
    states = plan.states()
    if all(state == "done" for state in states.values()):
        return  # a finished study costs nothing, and to estimate it takes seconds for ten thousand runs
    cost = estimate(plan, states, num_gpus=num_gpus)
    if cost.gpu_hours <= hours:
        return
    what = f"this sweep will take about {cost.gpu_hours:.1f} GPU-hours, by {cost.num_measured} runs of the same kind"
    if ask is not None and ask(f"{what}. Start it? [y/N] ").strip().lower() in ("y", "yes"):
        return
    raise UserError(
        f"{what}: sweep.confirm_above_gpu_hours must be at least that, or null, where nobody agrees; got {hours:g}"
    )

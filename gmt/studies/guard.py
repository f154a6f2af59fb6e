"""Asks the user to confirm an expensive sweep."""

from collections.abc import Callable
from dataclasses import dataclass

from gmt import settings
from gmt.errors import UserError
from gmt.studies.estimate import estimate
from gmt.studies.plan import Plan


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Settings of a sweep as a whole.

    Args:
        confirm_above_gpu_hours: the estimated cost in GPU-hours above which the sweep asks before it starts; None never
            asks.
    """

    confirm_above_gpu_hours: float | None

    def __post_init__(self) -> None:
        if self.confirm_above_gpu_hours is not None:
            settings.number(
                "sweep.confirm_above_gpu_hours", self.confirm_above_gpu_hours, "must be at least 0 or null", low=0
            )


def confirm(plan: Plan, limit: SweepSettings, ask: Callable[[str], str] | None, *, num_gpus: int) -> None:
    """Ask the user to confirm a sweep whose estimated cost exceeds the limit.

    Args:
        plan: the plan of the sweep.
        limit: the settings of the sweep.
        ask: shows a question and returns the user's answer; None if there is no terminal.
        num_gpus: the number of GPUs of the machine that will do the runs.

    Raises:
        UserError: the user did not agree, or can't be asked; nothing was started.
    """
    hours = limit.confirm_above_gpu_hours
    if hours is None or not any(planned.run.resources.num_gpus(num_gpus) for planned in plan.runs):
        return
    states = plan.states()
    if all(state == "done" for state in states.values()):
        return  # a finished study costs nothing, and the estimate would take seconds for ten thousand runs
    cost = estimate(plan, states, num_gpus=num_gpus)
    if cost.gpu_hours <= hours:
        return
    forecast = f"this sweep will take about {cost.gpu_hours:.1f} GPU-hours, as {cost.num_measured} similar runs show"
    if ask is not None and ask(f"{forecast}. Start it? [y/N] ").strip().lower() in ("y", "yes"):
        return
    raise UserError(
        f"the sweep was not confirmed; {forecast}: answer y, or raise sweep.confirm_above_gpu_hours, which is "
        f"{hours:g}; null never asks"
    )

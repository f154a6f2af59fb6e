"""`gmt plan`: the runs of a study, what became of them, and what is left. Imports neither torch, Ray nor MLflow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gmt.commands.sweep import study_of
from gmt.commands.terminal import say, table
from gmt.composition import Composer, hydra_on
from gmt.duration import duration
from gmt.studies.plan import STATES, Plan, axes_of, make_plan, rows, runs_at_once, seconds_left


def planned(overrides: Sequence[str], config_dir: str | None) -> tuple[Plan, Mapping[str, Any]]:
    """Plans a study outside a Hydra app.

    Returns:
        The plan, and the config with the study but without what is swept over.

    Raises:
        UserError: the study or a run in it is wrong.
    """
    with hydra_on(config_dir):
        composer = Composer()
        single = [
            text for text, o in zip(overrides, composer.parse(overrides), strict=True) if not o.is_sweep_override()
        ]
        config = composer.compose_plain(single)
        return make_plan(composer, study_of(config, required=True), axes_of(composer, overrides)), config


def plan(overrides: Sequence[str], config_dir: str | None) -> None:
    """Prints the plan."""
    made, _ = planned(overrides, config_dir)
    states = made.states()
    body = [
        [
            row["run_id"],
            row["label"],
            row["state"],
            str(row["attempts"] or ""),
            "" if row["seconds"] is None else duration(row["seconds"]),
            row["error"][:60],
        ]
        for row in rows(made, states)
    ]
    say(f"study {made.study.name}: {made.study.question.strip()}\n")
    say(table(["run", "arm", "state", "attempts", "time", "error"], body) + "\n")
    counts = Counter(states.values())
    say(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) + _time_left(made))


def _time_left(made: Plan) -> str:
    at_once = runs_at_once(made)
    seconds, measured = seconds_left(made, made.states(), at_once=at_once)
    if seconds is None:
        return "; no run is done yet, so there is nothing to estimate the time from"
    if not seconds:
        return ""
    return f"; about {duration(seconds)} left with {at_once} at once, by the mean of {measured} finished runs"

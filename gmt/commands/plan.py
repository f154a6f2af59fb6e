"""`gmt plan`: prints a study's runs, their states and the cost of the rest. Imports neither torch, Ray nor MLflow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gmt.duration import duration
from gmt.errors import UserError
from gmt.records.record import State
from gmt.runs.foreign_code import foreign_code
from gmt.runs.gpus import gpus_here
from gmt.studies.differing import differing_code, moving_models, uncommitted_changes
from gmt.studies.estimate import Estimate, estimate
from gmt.studies.opened import planned
from gmt.studies.plan import STATES, Plan, Tuned, changes, rows, runs_at_once
from gmt.studies.primary_power import power_of_plan
from gmt.studies.tuning_words import best_in_words, budget_in_words, chosen_again, resampled_in_words
from gmt.terminal import say, table

_MISSING = object()
_MAX_LISTED_RUNS = 200  # more runs are shown arm by arm


def plan(overrides: Sequence[str], config_dir: str | None, *, every_run: bool) -> None:
    """Print the plan of a study.

    Args:
        overrides: the user's overrides.
        config_dir: a config folder of the user's own, or None.
        every_run: whether to print a line for each run even if there are more than 200.

    Raises:
        UserError: the study is wrong.
    """
    plan, _ = planned(overrides, config_dir)
    states = plan.states()
    say(f"study {plan.study.name}: {plan.study.question.strip()}\n")
    is_listed = every_run or len(plan.runs) <= _MAX_LISTED_RUNS
    say((_by_run if is_listed else _by_arm)(plan, states) + "\n")
    if not is_listed:
        say("`gmt plan ... --runs` lists every run.")
    counts = Counter(states.values())
    if plan.tuned:
        say(_tuning_in_words(plan.tuned) + "\n")
    if plan.study.provenance:
        say(provenance(plan) + "\n")
    say(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    if plan.later:
        say(f"{len(plan.later)} more runs will be scheduled once tuning has chosen their settings")
    done = [planned for planned in plan.comparison if states[planned.run.id] == "done"]
    foreign = foreign_code(planned.run.config for planned in plan.runs)
    uncommitted = [] if counts["done"] == len(plan.runs) else uncommitted_changes()
    for sentence in (*changes(plan, states), *foreign, *uncommitted, *moving_models(plan.runs), *differing_code(done)):
        say(f"warning: {sentence}")
    for sentence in power_of_plan(plan):
        say(sentence)
    say(cost_in_words(estimate(plan, states, num_gpus=gpus_here()), runs_at_once(plan)))
    if (gpus := gpus_in_words(plan)) is not None:
        say(gpus)


def gpus_in_words(plan: Plan) -> str | None:
    """Return a sentence on the number of this machine's GPUs that a run takes; None if the machine has no GPU."""
    num_gpus = gpus_here()
    taken = {planned.run.resources.num_gpus(num_gpus) * planned.run.resources.workers for planned in plan.runs}
    if not num_gpus:
        return None
    if taken == {0.0}:
        return f"the runs compute on the CPU (resources.gpus=0); idle GPUs on this machine: {num_gpus}"
    numbers = " or ".join(f"{gpus:g}" for gpus in sorted(taken))
    return f"a run takes {numbers} of {num_gpus} GPUs on this machine"


def provenance(plan: Plan) -> str:
    """Return a table of a replication's settings, their provenance and their values.

    Raises:
        UserError: `study.provenance` names a setting that no run has.
    """
    body = []
    for key, word in (plan.study.provenance or {}).items():
        values = {_short_text(_value(planned.run.config, key)): None for planned in plan.runs}
        known = [value for value in values if value is not None]
        if not known:
            raise UserError(f"study.provenance names {key!r}, which is no setting of any run")
        body.append([key, word, ", ".join(known)])
    return table(["setting", "provenance", "value"], body)


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _short_text(value: Any) -> str | None:
    """Return a value as a short text, a mapping by its name or path, else by its keys; None for a missing value."""
    if value is _MISSING:
        return None
    if isinstance(value, Mapping):
        name = value.get("name") or value.get("path")
        return str(name) if name else " ".join(value)
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)


def _by_run(plan: Plan, states: Mapping[str, State]) -> str:
    body = [
        [
            row["run_id"],
            row["label"],
            row["state"],
            str(row["attempts"] or ""),
            "" if row["seconds"] is None else duration(row["seconds"]),
            row["error"][:60],
        ]
        for row in rows(plan, states)
    ]
    return table(["run", "arm", "state", "attempts", "time", "error"], body)


def _by_arm(plan: Plan, states: Mapping[str, State]) -> str:
    counts: dict[str, Counter[State]] = {}
    for run in plan.runs:
        counts.setdefault(run.point.arm, Counter())[states[run.run.id]] += 1
    shown = [state for state in STATES if any(count[state] for count in counts.values())]
    body = [[arm, str(count.total()), *(str(count[state]) for state in shown)] for arm, count in counts.items()]
    return table(["arm", "runs", *shown], body)


def _tuning_in_words(tuned: Sequence[Tuned]) -> str:
    """Return a table of the tuned choices: interval, runs, best value, and the share of resamples that choose it."""
    from gmt.studies.tuning_noise import noise_of  # numpy, which a plan without tuning need not import

    resamplings = [noise_of(choice) for choice in tuned]
    body = [
        [
            choice.label,
            f"{choice.low:g} .. {choice.high:g}",
            f"{choice.num_done} of {choice.num_runs}",
            best_in_words(choice),
            chosen_again(choice, resampling),
        ]
        for choice, resampling in zip(tuned, resamplings, strict=True)
    ]
    shown = table([f"tuning {tuned[0].setting}", "between", "runs done", "best", "chosen again"], body)
    return "\n".join([shown, "", *resampled_in_words(resamplings), budget_in_words(tuned)])


def cost_in_words(cost: Estimate, at_once: int) -> str:
    """Return a sentence on the time and memory that the remaining runs need.

    Args:
        cost: the estimate from similar finished runs.
        at_once: the number of runs that run at once.
    """
    if not cost.num_left:
        return "nothing is left to do"
    if not cost.num_known:
        return "time and memory can't be estimated, since no similar run has finished here yet"
    gpus = f", {cost.gpu_hours:.1f} GPU-hours" if cost.gpu_hours else ""
    rest = cost.num_left - cost.num_known
    unknown = f"; without {rest} runs that have no similar finished run" if rest else ""
    return (
        f"about {duration(cost.run_seconds / at_once)} left with {at_once} at once here "
        f"({duration(cost.run_seconds)} of runs{gpus}), at most {cost.peak_memory_bytes / 1e9:.1f} GB of memory a run, "
        f"estimated from {cost.num_measured} similar finished runs{unknown}"
    )

"""A fair comparison: one setting of every method is tuned first, each time with the same budget of runs.

What is to be tried next is asked of Optuna anew whenever a study is planned, and the results so far are told to it from
the run records: there is no other state that a killed sweep could lose.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmt import settings
from gmt.errors import UserError
from gmt.studies.grid import Point, to_override_value

_SAMPLERS = ("tpe", "grid")
_SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """The tuning of a setting before the comparison, once for each choice of all but the seed and fixed settings.

    Args:
        setting: a positive number, e.g. `train.learning_rate`; on a logarithmic scale.
        low, high: the interval that is searched, its ends included.
        runs: of each choice; the same for all is what makes the comparison fair.
        sampler: `tpe`: Optuna's tree-structured Parzen estimator, half of the runs drawn at random and together, then
            one after the other; `grid`: evenly spaced, all together.
        overrides: of the tuning runs: data other than the comparison's, since a setting that was chosen by the
            comparison's own questions would be judged by them too. Where the comparison varies one of these settings,
            its values share the tuning: with `task`, all tasks are compared at the value that is best on one.
    """

    setting: str
    low: float
    high: float
    runs: int
    sampler: str
    overrides: Mapping[str, Any]

    def __post_init__(self) -> None:
        settings.text("study.tuning.setting", self.setting)
        settings.number("study.tuning.low", self.low, "must be above 0", low=0, open_low=True)
        settings.number("study.tuning.high", self.high, "must be above study.tuning.low", low=self.low, open_low=True)
        settings.integer("study.tuning.runs", self.runs, low=2)
        settings.one_of("study.tuning.sampler", self.sampler, _SAMPLERS)
        if not isinstance(self.overrides, Mapping) or any(isinstance(v, list) for v in self.overrides.values()):
            raise UserError(f"study.tuning.overrides must give each setting one value, got {self.overrides!r}")
        if self.setting in self.overrides:
            raise UserError(f"study.tuning.overrides must leave {self.setting} to study.tuning.setting")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is known of one choice's tuning.

    Args:
        values: that were asked for so far; each is a run. The others depend on how these end.
        best: the value with the highest score, the first of equals; None until all runs are done.
    """

    values: Sequence[float]
    best: float | None


def cells(points: Sequence[Point], tuning: TuningSettings) -> list[list[Point]]:
    """The points of each choice that is tuned by itself: those that differ in their seed and fixed settings only."""
    found: dict[tuple[str, tuple[str, ...]], list[Point]] = {}
    for point in points:
        found.setdefault((point.arm, _without(point.overrides, (_SEED, *tuning.overrides))), []).append(point)
    return list(found.values())


def choice(point: Point, *, fixed: Iterable[str] = ()) -> str:
    """Return the label of a tuning: the arm and the settings that vary in it beside the seed and fixed ones."""
    keys = (_SEED, *fixed)
    lists = _without(point.lists_of_one, keys)
    return replace(point, varied=_without(point.varied, keys), lists_of_one=lists).label


def refuse_what_is_tuned(points: Sequence[Point], tuning: TuningSettings) -> None:
    """A setting can't be given and looked for at once.

    Raises:
        UserError: a point gives a value to what is tuned.
    """
    given = next((text for p in points for text in p.overrides if _key(text) == tuning.setting), None)
    if given is not None:
        raise UserError(f"{tuning.setting} is what study.tuning looks for and must not be given, got {given}")


def compared(point: Point, tuning: TuningSettings, value: float) -> Point:
    """A point of the comparison, with the value that was found for it."""
    return replace(point, overrides=(*point.overrides, _override(tuning.setting, value)))


def trial(point: Point, tuning: TuningSettings, value: float) -> Point:
    """The run that tries a value for a choice of which `point` is any point."""
    others = {key: to_override_value(given) for key, given in tuning.overrides.items()}
    own = {_key(text): text for text in _without(point.overrides, (_SEED,))}
    # In the places of the comparison's values: groups in one order are composed once for both.
    own |= {key: f"{key}={given}" for key, given in others.items()}
    value_of = _override(tuning.setting, value)
    return Point(
        arm=point.arm,
        overrides=(*own.values(), value_of),
        varied=(*_without(point.varied, (_SEED, *others)), value_of),
        stage="tuning",
    )


def ask(tuning: TuningSettings, name: str, score_of: Callable[[float], float | None]) -> Asked:
    """Asks what is to be tried for one choice.

    Args:
        tuning: the budget.
        name: of the choice; the same name and scores give the same values.
        score_of: the score that a value came to, in [0, 1]; None if its run is not done.
    """
    values = _grid(tuning) if tuning.sampler == "grid" else _tpe(tuning, name, score_of)
    scores = {value: score_of(value) for value in values}
    done = [(score, value) for value, score in scores.items() if score is not None]
    whole = len(values) == tuning.runs and len(done) == len(scores)
    best = max(done, key=lambda pair: pair[0])[1] if whole else None
    return Asked(values=list(scores), best=best)


def _grid(tuning: TuningSettings) -> list[float]:
    step = math.log(tuning.high / tuning.low) / (tuning.runs - 1)
    return [_rounded(tuning.low * math.exp(step * number)) for number in range(tuning.runs)]


def _tpe(tuning: TuningSettings, name: str, score_of: Callable[[float], float | None]) -> list[float]:
    import optuna  # half a second, which a plan without tuning need not take

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    at_once = (tuning.runs + 1) // 2
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=at_once)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    interval: dict[str, optuna.distributions.BaseDistribution] = {
        tuning.setting: optuna.distributions.FloatDistribution(tuning.low, tuning.high, log=True)
    }
    values: list[float] = []
    is_waiting = False
    for number in range(tuning.runs):
        if is_waiting and number >= at_once:
            break
        asked = search.ask(interval)
        values.append(_rounded(asked.params[tuning.setting]))
        score = score_of(values[-1])
        if score is None:
            is_waiting = True
        else:
            search.tell(asked, score)
    return values


def _rounded(value: float) -> float:
    """To what people like to read; the run's identity is of the rounded value."""
    return float(f"{value:.4g}")


def _override(key: str, value: float) -> str:
    return f"{key}={to_override_value(value)}"


def _key(override: str) -> str:
    return override.partition("=")[0]


def _without(overrides: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in overrides if _key(text) not in keys)

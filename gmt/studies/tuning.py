"""Tunes one setting of every choice before the comparison, with the same budget of runs for each.

Each plan starts Optuna anew, tells it the scores in the run records, and asks it for the values to try. The records
are thus the only state, and a killed sweep loses nothing.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmt import settings
from gmt.errors import UserError
from gmt.studies.trial_score import best_of

ARM, POINT = "arm", "point"
_SAMPLERS = ("tpe", "grid")
_SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Tunes a setting before the comparison, once for each combination of settings except the seed and `overrides`.

    Args:
        setting: the setting to tune, a positive number, e.g. `train.learning_rate`; searched on a logarithmic scale.
        low, high: the lowest and the highest value to try.
        runs: the number of values that each choice tries, on each tuning seed; equal for all choices, so that the
            comparison is fair.
        sampler: `grid` tries evenly spaced values in parallel, the same for every choice; `tpe` is Optuna's
            tree-structured Parzen estimator, which tries half of the values at random and in parallel, the others one
            by one.
        overrides: settings of the tuning runs alone. They must choose other data than the comparison's, so that the
            comparison does not judge a value by the questions that chose it. If the comparison varies one of these
            settings, tuning chooses one value for all its values: with `task`, the best value on one task serves for
            all tasks.
        seeds: the seeds of the tuning runs, which the study must not have: each value is tried on each seed, and its
            score is the mean over the seeds. Empty: the seed in `overrides`.
        value_per: `arm` tunes one value for all values of the study's axis, by the mean over them; `point` tunes one
            for each value of the axis, which must vary; None: like `point`, and the axis need not vary.
        forgetting_bound: the most forgetting that is allowed. Tuning chooses the best target score among the values
            within the bound, or the least forgetting if no value is within it. None: the best target score of all.
    """

    setting: str
    low: float
    high: float
    runs: int
    sampler: str = "grid"
    overrides: Mapping[str, Any]
    seeds: Sequence[int] = ()
    value_per: str | None = None
    forgetting_bound: float | None = None

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
        if self.sampler == "grid" and len(set(_grid(self))) < self.runs:
            raise UserError(
                f"study.tuning.runs must be at most the number of values of four digits between low and high, "
                f"got {self.runs} from {self.low} to {self.high}"
            )
        self._check_seeds()
        if self.value_per is not None:
            settings.one_of("study.tuning.value_per", self.value_per, (ARM, POINT))
        if self.forgetting_bound is not None:
            settings.number("study.tuning.forgetting_bound", self.forgetting_bound, "must lie in [0, 1)", low=0, high=1)

    def _check_seeds(self) -> None:
        seeds = self.seeds
        if not isinstance(seeds, Sequence) or isinstance(seeds, str) or len(set(map(str, seeds))) < len(seeds):
            raise UserError(f"study.tuning.seeds must list different seeds, got {seeds!r}")
        for seed in seeds:
            settings.integer("study.tuning.seeds", seed, low=0)
        if seeds and _SEED in self.overrides:
            raise UserError("study.tuning.overrides must leave seed to study.tuning.seeds")


def best_value(tuning: TuningSettings, name: str, rank_of: Callable[[float], float | None]) -> float | None:
    """Return the value with the largest rank, the first of equals; None until the whole budget of runs is done.

    Args:
        tuning: the settings of the tuning.
        name: the choice's name; the same name and ranks give the same values.
        rank_of: returns the rank of a value, see TrialScore.rank; None if some of the value's runs are not done.
            It is called with each value to try so far; later values depend on the ranks of earlier ones.
    """
    values = _grid(tuning) if tuning.sampler == "grid" else _tpe(tuning, name, rank_of)
    ranks = {value: rank for value in values if (rank := rank_of(value)) is not None}
    is_done = len(values) == tuning.runs and ranks.keys() == set(values)
    return best_of(ranks) if is_done else None


def _grid(tuning: TuningSettings) -> list[float]:
    step = math.log(tuning.high / tuning.low) / (tuning.runs - 1)
    return [_rounded(tuning.low * math.exp(step * number)) for number in range(tuning.runs)]


def _tpe(tuning: TuningSettings, name: str, rank_of: Callable[[float], float | None]) -> list[float]:
    import optuna  # takes half a second, which a plan without tuning need not spend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    num_random = (tuning.runs + 1) // 2  # these do not depend on earlier ranks, so their runs need not wait
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=num_random)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    interval: dict[str, optuna.distributions.BaseDistribution] = {
        tuning.setting: optuna.distributions.FloatDistribution(tuning.low, tuning.high, log=True)
    }
    values: list[float] = []
    is_waiting = False
    for number in range(tuning.runs):
        if is_waiting and number >= num_random:
            break
        trial = search.ask(interval)
        values.append(_rounded(trial.params[tuning.setting]))
        rank = rank_of(values[-1])
        if rank is None:
            is_waiting = True
        else:
            search.tell(trial, rank)
    return values


def _rounded(value: float) -> float:
    """Return a value rounded to four digits, for readable names; the run id covers the rounded value."""
    return float(f"{value:.4g}")

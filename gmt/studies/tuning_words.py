"""Sentences on the tuning of a study's settings, for plans, sweeps and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gmt.listed import some
from gmt.studies.plan import Tuned

if TYPE_CHECKING:
    from gmt.studies.tuning_noise import TuningNoise

_LEAST_SHARE = 0.05  # of the draws that choose a value, for it to be named


def tuned_in_words(tuned: Tuned, noise: TuningNoise | None) -> str:
    """Return a sentence on the tuning of one choice: its best value, the runs, the interval, and how sure the value is.

    Args:
        tuned: the tuning.
        noise: the noise of the value; None if it is unknown.
    """
    best = "not chosen yet" if tuned.best is None else f"{tuned.best:g}"
    searched = f"after {tuned.num_done} of {tuned.num_runs} runs between {tuned.low:g} and {tuned.high:g}"
    clauses = [f"{tuned.label}: {tuned.setting} {best}, {searched}", *scores_in_words(tuned), *doubts(tuned)]
    resampled = [f"chosen again in {shares} of resamples"] if (shares := chosen_again(tuned, noise)) else []
    return "; ".join([*clauses, *resampled])


def best_in_words(tuned: Tuned) -> str:
    """Return the best value, followed by the doubts about it in brackets; empty if no value is chosen yet."""
    if tuned.best is None:
        return ""
    return f"{tuned.best:g}" + (f" ({'; '.join(words)})" if (words := doubts(tuned)) else "")


def scores_in_words(tuned: Tuned) -> list[str]:
    """Return a clause on the mean scores of the tuning runs at the best value; none without one."""
    if (score := tuned.best_score) is None:
        return []
    forgets = "" if tuned.bound is None else f", forgetting {100 * score.forgetting:.1f} points"
    return [f"target {score.target:.1%}{forgets} in tuning"]


def doubts(tuned: Tuned) -> list[str]:
    """Return a clause if every value breaks the bound, and one if the best lies at an end of the interval."""
    clauses = []
    if tuned.breaks_bound:
        clauses.append(
            f"the runs of every value forget more than the bound of {100 * (tuned.bound or 0):g} points, so the value "
            "with the least forgetting is used"
        )
    if tuned.is_at_an_end:
        clauses.append("at an end of the interval, so a better value may lie outside")
    return clauses


def chosen_again(tuned: Tuned, noise: TuningNoise | None) -> str:
    """Return the share of resamples that choose the best value, and other values that many choose; empty if unknown."""
    if tuned.best is None or noise is None:
        return ""
    others = {value: share for value, share in noise.shares.items() if value != tuned.best and share >= _LEAST_SHARE}
    shares = [
        f"{noise.shares.get(tuned.best, 0):.0%}",
        *(f"{value:g} in {share:.0%}" for value, share in others.items()),
    ]
    return ", ".join(shares)


def resampled_in_words(resamplings: Iterable[TuningNoise | None]) -> list[str]:
    """Return a sentence on the resamples that `chosen_again` counts; none if no noise is known."""
    known = [noise for noise in resamplings if noise is not None]
    if not known:
        return []
    num_seeds = known[0].num_seeds
    seeds = [] if num_seeds == 1 else [f"the {num_seeds} tuning seeds"]
    questions = ["the tuning's questions"] if any(noise.has_questions for noise in known) else []
    only = " With one tuning seed, the shares do not include the noise of seeds." if num_seeds == 1 else ""
    of_what = " and of ".join([*seeds, *questions])
    return [f"A value is chosen again in a resample of {of_what} if the same rule chooses it there.{only}"]


def values_in_words(tuned: Sequence[Tuned]) -> str:
    """Return a sentence that names the first few chosen values; empty if none is chosen yet."""
    chosen = [f"{choice.label} {best_in_words(choice)}" for choice in tuned if choice.best is not None]
    if not chosen:
        return ""
    return f"Tuned {tuned[0].setting}: {some(chosen, most=12)}."


def budget_in_words(tuned: Sequence[Tuned]) -> str:
    """Return a sentence on the runs that the tuning of a study takes."""
    num_runs, seeds = sum(choice.num_runs for choice in tuned), sorted(_seeds(tuned))
    on = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"
    choices = "1 choice" if len(tuned) == 1 else f"{len(tuned)} choices"
    return f"Tuning takes {num_runs} runs for {choices}, on {on}."


def _seeds(tuned: Sequence[Tuned]) -> set[int]:
    return {planned.run.seed for choice in tuned for trials in choice.trials.values() for planned in trials}

"""The frontier: forgetting of an arm at the target score that another arm reaches.

An arm is a curve: a point for each value of the axis, the mean over seeds of target and forgetting, joined in the order
of the axis. Forgetting at a target score is the lowest on the curve where the target is at least that high.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special

from gmt.listed import some
from gmt_analysis.choices import CHOICE, choice_name, has_base_scores
from gmt_analysis.figures import FORGETTING, TARGET, legend_outside
from gmt_analysis.frontier_words import frontier_in_words
from gmt_analysis.rendering import hover
from gmt_analysis.statistics import CONFIDENCE
from gmt_analysis.styles import Style, arm_styles

FEWEST = 5  # seeds that an interval needs: three seeds all lie on one side of the true mean in a quarter of studies
NUM_RESAMPLES = 9999
POINTS: Mapping[str, str] = {
    "arm": "string",
    "task": "string",
    "axis": "Float64",
    "n": "Int64",
    "target": "Float64",
    "target_error": "Float64",
    "forgetting": "Float64",
    "forgetting_error": "Float64",
}
MATCHED: Mapping[str, str] = {
    "arm": "string",
    "task": "string",
    "num_points": "Int64",
    "n": "Int64",
    "at": "Float64",
    "reached": "Float64",
    "forgetting": "Float64",
    "forgetting_low": "Float64",
    "forgetting_high": "Float64",
    "difference": "Float64",
    "difference_low": "Float64",
    "difference_high": "Float64",
}
ON_THE_WAY = {"eval/target_mean": "target", "eval/source_mean": "source"}  # logged metric -> its word here
_SCORES = ("target_after", "forgetting")
_STOPPED = "stopped early"
_FEWEST_EVALUATIONS = 3  # before, during and after training: without one during training, there is no early stop


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The frontier of a study.

    Args:
        baseline: the arm whose best target score, less the margin, is the score at which all arms are compared.
        points: a row for each arm, task and value of the axis: means over `n` seeds with their standard errors; columns
            as in POINTS. The points of an arm are in the order of the axis.
        matched: a row for each arm and task; columns as in MATCHED. `at` is the baseline's best target score less the
            margin. `forgetting` is the arm's forgetting at this score, infinite if no point of the arm reaches it;
            `reached` is the share of resamples in which one does; `difference` is forgetting less the baseline's.
        sentences: `matched` as sentences, and sentences on the runs and arms that are left out.
    """

    baseline: str
    points: pd.DataFrame
    matched: pd.DataFrame
    sentences: tuple[str, ...]


def frontier_of(table: pd.DataFrame, *, baseline: str, margin: float, num_resamples: int = NUM_RESAMPLES) -> Frontier:
    """Compute the frontier of a study.

    The intervals are bootstrap intervals over seeds, which all arms of a task share: each resample draws seeds with
    replacement, and computes the means, the baseline's target score, the curves and the forgetting again. They are
    percentile intervals, widened for few seeds (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015,
    Section 5.3), and are not corrected for their number: in simulations, a single interval covers the truth in 92 of
    100 studies of 5 seeds or of 20. A difference has an interval only if arm and baseline have equally many points,
    since the lowest of many points is lower by chance than the lowest of few: of nine points that equal the baseline's
    one, it was lower in more than 15 of 20 simulated studies (tests/unit/analysis/test_frontier.py).

    Args:
        table: the typed table of a study, with or without rows of `points_on_the_way`, and with or without the base's
            scores for runs that diverged (gmt_analysis.choices.with_base_scores).
        baseline: the arm that the others are compared with.
        margin: how far below the baseline's best target score arms are compared, a fraction in [0, 1).
        num_resamples: the number of resamples.
    """
    done = table[((table["state"] == "done") | has_base_scores(table)) & table[[*_SCORES, "seed"]].notna().all(axis=1)]
    diverged = done[has_base_scores(done)]
    runs = done[[*CHOICE, "seed", *_SCORES]].astype({**dict.fromkeys(_SCORES, float), "axis": float, "seed": int})
    points, matched, sentences = [], [], []
    for task, group in diverged.groupby("task", sort=False):
        names = [choice_name(arm, value) for arm, value in group[["arm", "axis"]].drop_duplicates().to_numpy()]
        sentences.append(
            f"On {task}, runs that diverged count with the base's score on the frontier: {some(names)}. Without them, "
            "these choices would lack seeds and be left out."
        )
    for task, group in runs.groupby("task", sort=False):
        seeds, words = _seeds(group, baseline, str(task))
        sentences += words
        if seeds:
            curves = _TaskCurves(group, str(task), baseline, seeds)
            points.append(curves.points())
            matched.append(curves.matched(margin, num_resamples))
            sentences += curves.left_out()
            sentences += frontier_in_words(matched[-1], baseline, margin)
    return Frontier(
        baseline=baseline,
        points=_typed(points, POINTS),
        matched=_typed(matched, MATCHED),
        sentences=tuple(sentences),
    )


def forgetting_at(target_BP: np.ndarray, forgetting_BP: np.ndarray, at_B: np.ndarray) -> np.ndarray:
    """Return the lowest forgetting on each of B curves where the target is at least `at`; infinite where it never is.

    Args:
        target_BP, forgetting_BP: target and forgetting of the P points of each curve, in their order.
        at_B: a target score for each curve.
    """
    at_B1 = at_B[:, None]
    reached_BP = np.where(target_BP >= at_B1, forgetting_BP, np.inf)
    first, second = target_BP[:, :-1], target_BP[:, 1:]
    crosses = (first - at_B1) * (second - at_B1) < 0
    share = np.divide(at_B1 - first, second - first, out=np.zeros_like(first), where=crosses)
    before, after = forgetting_BP[:, :-1], forgetting_BP[:, 1:]
    between = np.where(crosses, before + share * (after - before), np.inf)
    lowest: np.ndarray = np.concatenate([reached_BP, between], axis=1).min(axis=1)
    return lowest


def points_on_the_way(series: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a study's table for early stopping: each evaluation during a training counts as a shorter run.

    Args:
        series: `eval/target_mean` and `eval/source_mean` from gmt.tracking.series.read_series, of runs with
            record.evaluate_source=true; the values at step 0 are the base's.

    Returns:
        A row for each evaluation after step 0. Its value of the axis is the step; its arm is the name of the run's
        choice, followed by `stopped early`.
    """
    rows = []
    for _, run in series[series["name"].isin(ON_THE_WAY)].groupby("run_id", sort=False):
        if run["step"].nunique() < _FEWEST_EVALUATIONS:
            continue
        wide = run.assign(name=run["name"].map(ON_THE_WAY)).pivot_table(index="step", columns="name", values="value")
        if 0 not in wide.index or "source" not in wide or "target" not in wide or len(wide) < _FEWEST_EVALUATIONS:
            continue
        first = run.iloc[0]
        for step, row in wide.dropna().iterrows():
            if step:
                arm = f"{choice_name(first['arm'], first['axis'])}, {_STOPPED}"
                common = {"run_id": first["run_id"], "arm": arm, "task": first["task"], "seed": first["seed"]}
                scores = {"target_after": row["target"], "forgetting": wide.loc[0, "source"] - row["source"]}
                rows.append({**common, "state": "done", "axis": step, **scores})
    columns = ["run_id", "arm", "task", "seed", "state", "axis", "target_after", "forgetting"]
    return pd.DataFrame(rows, columns=columns).astype({"axis": "Float64", "target_after": "Float64"})


def frontier_figure(frontier: Frontier, *, task: str) -> Figure | None:
    """Return a figure of forgetting against target, with a line for each arm; None if no arm has two points.

    Args:
        frontier: the frontier of a study; matplotlib draws a name with two $ as a formula.
        task: a task of the study.
    """
    points = frontier.points[frontier.points["task"] == task]
    if points.empty or points.groupby("arm").size().max() < 2:
        return None
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    styles = arm_styles(frontier.points["arm"])
    for arm, of_arm in points.groupby("arm", sort=False):
        _draw(axis, of_arm, str(arm), styles[str(arm)])
    at = frontier.matched.loc[frontier.matched["task"] == task, "at"]
    if len(at):
        axis.axvline(100 * float(at.iloc[0]), color="#555555", linestyle=":", linewidth=1)
    axis.set_title(f"Frontier: {task}", fontsize=11)
    axis.set_xlabel(TARGET.unit)
    axis.set_ylabel(FORGETTING.unit)
    axis.set_xlim(*TARGET.limits(_with_errors(points, "target")))
    axis.set_ylim(*FORGETTING.limits(_with_errors(points, "forgetting")))
    axis.grid(alpha=0.25)
    legend_outside(figure)
    return figure


def _with_errors(points: pd.DataFrame, name: str) -> pd.Series:
    """Return the ends of the bars of standard errors, in per cent."""
    means, errors = points[name].astype(float), points[f"{name}_error"].astype(float).fillna(0)
    return 100 * pd.concat([means - errors, means + errors])


class _TaskCurves:
    """The curves of all arms on one task, over the seeds that every point of the baseline has.

    Shapes: S seeds, P points of a curve, B resamples.
    """

    def __init__(self, runs: pd.DataFrame, task: str, baseline: str, seeds: list[int]):
        self._task, self._baseline, self._seeds = task, baseline, seeds
        on_seeds = runs[runs["seed"].isin(seeds)]
        is_complete = on_seeds.groupby(["arm", "axis"], dropna=False)["seed"].transform("nunique") == len(seeds)
        dropped = runs.loc[~runs.index.isin(on_seeds.index[is_complete]), ["arm", "axis"]].drop_duplicates()
        complete = on_seeds[is_complete].sort_values("axis", kind="stable")
        self._curves: dict[str, tuple[list[float], np.ndarray, np.ndarray]] = {}
        for arm in dict.fromkeys(runs["arm"]):
            of_arm = complete[complete["arm"] == arm]
            groups = [(value, group.sort_values("seed")) for value, group in of_arm.groupby("axis", dropna=False)]
            if groups:
                target_SP, forgetting_SP = (
                    np.stack([group[column].to_numpy() for _, group in groups], axis=1) for column in _SCORES
                )
                self._curves[str(arm)] = ([float(str(value)) for value, _ in groups], target_SP, forgetting_SP)
        names = {choice_name(arm, value) for arm, value in dropped.itertuples(index=False)}
        complete_names = {choice_name(arm, value) for arm, curve in self._curves.items() for value in curve[0]}
        self._dropped = sorted(names - complete_names)

    def points(self) -> pd.DataFrame:
        """Return the points of all arms."""
        n, rows = len(self._seeds), []
        for arm, (values, target_SP, forgetting_SP) in self._curves.items():
            for i, value in enumerate(values):
                row: dict[str, Any] = {"arm": arm, "task": self._task, "axis": value, "n": n}
                for name, scores_S in (("target", target_SP[:, i]), ("forgetting", forgetting_SP[:, i])):
                    error = float(scores_S.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
                    row |= {name: float(scores_S.mean()), f"{name}_error": error}
                rows.append(row)
        return pd.DataFrame(rows)

    def matched(self, margin: float, num_resamples: int) -> pd.DataFrame:
        """Return a row for each arm; the first of the B resamples is the sample itself."""
        n = len(self._seeds)
        drawn = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=num_resamples if n >= FEWEST else 0)
        weights_BS = np.concatenate([np.full((1, n), 1 / n), drawn / n])
        at_B = (weights_BS @ self._curves[self._baseline][1]).max(axis=1) - margin
        by_arm = {
            arm: forgetting_at(weights_BS @ target_SP, weights_BS @ forgetting_SP, at_B)
            for arm, (_, target_SP, forgetting_SP) in self._curves.items()
        }
        baseline_B, num_points, rows = by_arm[self._baseline], len(self._curves[self._baseline][0]), []
        for arm, forgetting_B in by_arm.items():
            row: dict[str, Any] = {"arm": arm, "task": self._task, "n": n, "at": float(at_B[0])}
            row |= {"num_points": len(self._curves[arm][0]), "reached": float(np.isfinite(forgetting_B).mean())}
            for name, values_B in (("forgetting", forgetting_B), ("difference", forgetting_B - baseline_B)):
                low, high = _interval(values_B[1:], n)
                if name == "difference" and row["num_points"] != num_points:  # the lowest of many is lower by chance
                    low = high = float("nan")
                row |= {name: float(values_B[0]), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def left_out(self) -> list[str]:
        """Return sentences on points that lack a seed, and on arms with a single point."""
        sentences = []
        if self._dropped:
            sentences.append(
                f"On {self._task}, the frontier leaves out choices that lack some of the baseline's "
                f"{len(self._seeds)} seeds: {some(self._dropped)}."
            )
        single = [arm for arm, curve in self._curves.items() if len(curve[0]) < 2]
        if single:
            has = "has one point" if len(single) == 1 else "have one point each"
            sentences.append(
                f"On {self._task}, {some(single)} {has} on the frontier, so no curve: a learning rate or "
                "another axis with two values would give one."
            )
        return sentences


def _seeds(runs: pd.DataFrame, baseline: str, task: str) -> tuple[list[int], list[str]]:
    """Return the seeds that every point of the baseline has, and sentences on missing runs."""
    of_baseline = runs[runs["arm"] == baseline]
    if of_baseline.empty:
        return [], [f"On {task}, the baseline arm {baseline} has no finished runs, so no frontier is computed."]
    seeds = sorted(set.intersection(*(set(group["seed"]) for _, group in of_baseline.groupby("axis", dropna=False))))
    if not seeds:
        return [], [f"On {task}, the points of the baseline arm {baseline} share no seed, so no frontier is computed."]
    if len(seeds) < FEWEST:
        few = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
        return seeds, [f"On {task}, the frontier has {few} and no intervals: {FEWEST} are needed."]
    return seeds, []


def _interval(values_B: np.ndarray, n: int) -> tuple[float, float]:
    """Return the ends of a bootstrap interval, widened for n seeds; NaN without resamples."""
    if not len(values_B):
        return float("nan"), float("nan")
    tail = float(special.ndtr(-((n / (n - 1)) ** 0.5) * special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)))
    low, high = np.quantile(values_B, tail, method="lower"), np.quantile(values_B, 1 - tail, method="higher")
    return float(low), float(high)


def _draw(axis: Axes, points: pd.DataFrame, arm: str, style: Style) -> None:
    x, y, xerr, yerr = (
        100 * points[column].astype(float) for column in ("target", "forgetting", "target_error", "forgetting_error")
    )
    axis.errorbar(x, y, xerr=xerr.fillna(0), yerr=yerr.fillna(0), color=style.colour, alpha=0.5, linestyle="none")
    (line,) = axis.plot(x, y, color=style.colour, marker=style.marker, markersize=5, linewidth=1.2, label=arm)
    hover(line, [choice_name(arm, value) for value in points["axis"].astype(float)])


def _typed(frames: list[pd.DataFrame], columns: Mapping[str, str]) -> pd.DataFrame:
    whole = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))
    return whole[list(columns)].astype(dict(columns))

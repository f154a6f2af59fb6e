"""Forgetting at a matched target score: curves by hand, what is left out, and how often the intervals hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.frontier import (
    MATCHED,
    ON_THE_WAY,
    POINTS,
    forgetting_at,
    frontier_figure,
    frontier_of,
    points_on_the_way,
)
from gmt_analysis.results import Results

from gmt.axis import Axis
from gmt.tracking.series import read_series
from tests.finished import finish, plan_of

Curve = Mapping[float | None, tuple[float, float]]
SFT: Curve = {1e-4: (0.4, 0.1), 1e-3: (0.8, 0.5), 1e-2: (0.7, 0.9)}


def table_of(
    curves: Mapping[str, Curve], seeds: Sequence[int] = range(5), noise: np.ndarray | None = None
) -> pd.DataFrame:
    """Return a study's table: each arm's points of target and forgetting by the axis; `noise` is added to seeds."""
    rows = [
        {
            "arm": arm,
            "task": "t",
            "axis": value,
            "seed": seed,
            "state": "done",
            "target_after": target,
            "forgetting": lost,
        }
        for arm, curve in curves.items()
        for value, (target, lost) in curve.items()
        for seed in seeds
    ]
    table = pd.DataFrame(rows).astype({"axis": "Float64", "target_after": "Float64", "forgetting": "Float64"})
    if noise is not None:
        table["target_after"] += noise[:, 0]
        table["forgetting"] += noise[:, 1]
    return table


@pytest.mark.parametrize(
    ("at", "lowest"),
    [
        (0.3, 0.1),  # every point reaches it: the lowest of them
        (0.4, 0.1),
        (0.6, 0.3),  # half-way from the first point to the second
        (0.8, 0.5),
        (0.81, np.inf),  # nobody reaches it
    ],
)
def test_forgetting_is_the_lowest_on_the_curve_that_reaches_the_target(at: float, lowest: float) -> None:
    target, lost = (np.array([column]) for column in zip(*SFT.values(), strict=True))
    assert forgetting_at(target, lost, np.array([at]))[0] == pytest.approx(lowest)


def test_arms_are_held_at_the_baselines_best_target_less_the_margin() -> None:
    gmt: Curve = {1e-4: (0.5, 0.0), 3e-4: (0.6, 0.1), 1e-3: (0.9, 0.4)}
    low: Curve = {1e-4: (0.5, 0.1), 1e-3: (0.6, 0.2)}
    frontier = frontier_of(table_of({"sft": SFT, "gmt": gmt, "low": low}), baseline="sft", margin=0.1, num_resamples=99)
    assert list(frontier.points.columns) == list(POINTS)
    assert list(frontier.matched.columns) == list(MATCHED)
    rows = frontier.matched.set_index("arm")
    assert rows["at"].tolist() == pytest.approx([0.7] * 3)
    assert rows["forgetting"].tolist() == pytest.approx([0.4, 0.2, np.inf])
    assert rows.loc["gmt", ["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([-0.2] * 3)
    assert rows["reached"].tolist() == [1, 1, 0]
    assert frontier.sentences == (
        "On t, at a target score of 70.0% (sft's best less 10 points), sft forgets 40.0 [40.0, 40.0]; gmt forgets "
        "20.0 [20.0, 20.0], a difference of -20.0 [-20.0, -20.0]: less than sft; low does not reach this target score.",
    )


def test_an_arm_with_one_point_gets_a_sentence_and_the_others_their_frontier() -> None:
    frontier = frontier_of(table_of({"sft": SFT, "hft": {None: (0.8, 0.6)}}), baseline="sft", margin=0.02)
    single, words, on_points = frontier.sentences
    assert single.startswith("On t, hft has one point on the frontier, so no curve")
    assert "hft forgets 60.0 [60.0, 60.0], a difference of +12.0: no interval" in words
    assert on_points == (  # with an interval, 29 % of studies of 9 equal points against 1 found a difference
        "hft: no interval of the difference, since sft has another number of points, and the lowest of many points "
        "is lower by chance than the lowest of few."
    )
    assert frontier_figure(frontier, task="t") is not None


def test_a_frontier_of_single_points_is_no_figure_and_no_error() -> None:
    frontier = frontier_of(table_of({"sft": {None: (0.8, 0.6)}}), baseline="sft", margin=0.02)
    assert frontier_figure(frontier, task="t") is None
    assert "sft has one point on the frontier" in frontier.sentences[0]


def test_a_sentence_says_that_intervals_of_several_arms_are_uncorrected() -> None:
    frontier = frontier_of(table_of({"sft": SFT, "gmt": SFT, "rmt": SFT}), baseline="sft", margin=0.1, num_resamples=99)
    assert frontier.sentences[-1] == (
        "These 2 intervals of differences are uncorrected: if no arm differed from sft, about 0.2 would exclude 0 by "
        "chance."
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda t: t[t["arm"] != "sft"],
            "On t, the baseline arm sft has no finished runs, so no frontier is computed.",
        ),
        (lambda t: t[t["seed"] < 2], "On t, the frontier has 2 seeds and no intervals: 5 are needed."),
        (
            lambda t: t[(t["axis"] == 1e-3) == (t["seed"] < 2)],
            "On t, the points of the baseline arm sft share no seed, so no frontier is computed.",
        ),
        (
            lambda t: t[(t["arm"] == "sft") | (t["axis"] != 1e-3) | (t["seed"] != 1)],
            "On t, the frontier leaves out choices that lack some of the baseline's 5 seeds: gmt 0.001.",
        ),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(change: object, sentence: str) -> None:
    frontier = frontier_of(change(table_of({"sft": SFT, "gmt": SFT})), baseline="sft", margin=0.02)  # type: ignore[operator]
    assert sentence in frontier.sentences


def test_nothing_is_a_frontier_too() -> None:
    empty = frontier_of(table_of({"sft": SFT}).iloc[:0], baseline="sft", margin=0.02)
    assert (len(empty.points), len(empty.matched), empty.sentences) == (0, 0, ())


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "least"), [(5, 0.9), (20, 0.9)])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(num_seeds: int, least: float) -> None:
    """Two arms on one curve: no difference. Nominal 95 %; 300 studies have a standard error of 1.3 points."""
    rng, held, num_studies = np.random.default_rng(1), 0, 300
    curves = {"sft": SFT, "gmt": SFT}
    for _ in range(num_studies):
        noise = rng.normal(scale=0.02, size=(6 * num_seeds, 2))
        table = table_of(curves, range(num_seeds), noise)
        row = frontier_of(table, baseline="sft", margin=0.1, num_resamples=999).matched.iloc[1]
        held += row["difference_low"] <= 0 <= row["difference_high"]
    assert held / num_studies >= least, held / num_studies


def test_arms_with_more_points_than_the_baseline_are_never_said_to_differ() -> None:
    """The lowest of nine equal points lies below the baseline's one point on average; no sentence says so."""
    flat: Curve = {number / 10: (0.7, 0.5) for number in range(9)}
    below = 0
    for study in range(20):
        noise = np.random.default_rng(study).normal(scale=0.03, size=(50, 2))
        table = table_of({"sft": {None: (0.7, 0.5)}, "gmt": flat}, noise=noise)
        frontier = frontier_of(table, baseline="sft", margin=0.02, num_resamples=99)
        row = frontier.matched.set_index("arm").loc["gmt", ["difference", "difference_low", "difference_high"]]
        below += row["difference"] < 0
        assert row.isna().tolist() == [False, True, True]
        assert not any(words in sentence for sentence in frontier.sentences for words in ("less than", "more than"))
    assert below > 15


def test_early_stopping_is_read_from_evaluations_on_the_way(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1, 2])
    for planned in plan.runs:
        finish(planned, 0.7)
        for step, (target, source) in {0: (0.1, 0.95), 10: (0.5, 0.8), 20: (0.7, 0.6)}.items():
            planned.record.append_metrics(step, {"eval/target_mean": target, "eval/source_mean": source})
        planned.record.finish()
    runs = ((p.point.arm, p.point.label, p.record) for p in plan.runs)
    rows = points_on_the_way(read_series(runs, ON_THE_WAY, axis=Axis()))
    assert rows[["arm", "seed", "axis", "target_after"]].to_numpy().tolist() == [
        ["sft, stopped early", seed, step, target] for seed in (1, 2) for step, target in ((10, 0.5), (20, 0.7))
    ]
    assert rows["forgetting"].tolist() == pytest.approx([0.15, 0.35] * 2)
    frontier = frontier_of(rows, baseline="sft, stopped early", margin=0.1)
    assert frontier.matched["forgetting"].tolist() == pytest.approx([0.25])
    of_study = Results(plan).frontier
    assert of_study.matched["arm"].tolist() == ["sft", "sft, stopped early"]
    assert of_study.matched["forgetting"].tolist() == pytest.approx([0.05, 0.33])


def test_a_run_that_was_asked_at_its_ends_alone_was_never_stopped(tmp_path: Path) -> None:
    (planned,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    finish(planned, 0.7)
    for step, target in {0: 0.1, 20: 0.7}.items():
        planned.record.append_metrics(step, {"eval/target_mean": target, "eval/source_mean": 0.9})
    planned.record.finish()
    series = read_series([(planned.point.arm, planned.point.label, planned.record)], ON_THE_WAY, axis=Axis())
    assert points_on_the_way(series).empty

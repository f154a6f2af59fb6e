"""Figures hold what the tables say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.choices import scores_of
from gmt_analysis.cost_figures import cost_against_size, pareto_front, score_against_cost, time_of_a_step
from gmt_analysis.costs import costs_of_runs
from gmt_analysis.diagnostic_figures import figure_of
from gmt_analysis.figures import FORGETTING, TARGET, score_along
from gmt_analysis.front_figure import choices_on_the_front
from gmt_analysis.mask_figures import (
    density_in_words,
    facts_by_choice,
    facts_by_layer,
    facts_over_steps,
    layers_by_choice,
)
from gmt_analysis.statistics import summarise

from gmt.axis import Axis
from gmt.tracking.series import read_series
from gmt.tracking.table import read_table
from tests.finished import finish, plan_of


@pytest.fixture
def plan(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = plan_of(
        tmp_path, {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}}, [1, 2]
    )
    for number, planned in enumerate(made.runs):
        finish(planned, 0.5 + number / 20)
        for step in (10, 20):
            layers = {f"mask/layers/model.layers.{i}/overlap": 0.1 * i for i in range(2)}
            facts = {"mask/overlap": step / 100, "mask/energy_kept": 0.9, "mask/moved_fraction": 0.5, **layers}
            if planned.point.arm == "gmt":
                planned.record.append_metrics(step, facts)
        planned.record.finish()
    return [(p.point.arm, p.point.label, p.record) for p in made.runs]


def test_an_arm_looks_the_same_on_every_task() -> None:
    """Also where another has no finished run."""
    rows = [("sft", "t", None), ("gmt", "t", 0.5), ("rmt", "t", 0.5), ("sft", "u", None), ("rmt", "u", 0.5)]
    summary = _summary(rows, ["arm", "task", "axis"]).assign(cost=1.0)
    scores = [score_along(summary, _seeds(summary), TARGET, task=task, along=Axis()) for task in "tu"]
    bought = [score_against_cost(summary, task=task, cost="cost", label="") for task in "tu"]
    for pair in (scores, bought):
        one, other = (
            {label.split()[0]: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
            for axis in (figure.axes[0] for figure in pair)
        )
        assert _colour(one["rmt"]) == _colour(other["rmt"]) != _colour(one["gmt"])


def _summary(rows: list[Any], columns: list[str], n: int = 3) -> pd.DataFrame:
    """A summary whose scores are 50 %, with intervals of 10 points on both sides."""
    scores = {"target_after": 0.5, "target_after_low": 0.4, "target_after_high": 0.6}
    return pd.DataFrame(rows, columns=columns).assign(n=n, **scores)


def _seeds(summary: pd.DataFrame, column: str = "target_after") -> pd.DataFrame:
    """A run with the mean for each row of a summary."""
    return scores_of(summary.assign(state="done", seed=1, axis=summary["axis"].astype("Float64")), column)


def _colour(handle: Any) -> str:
    line = handle[0] if isinstance(handle, tuple) else handle
    return str(line.get_color())


def test_facts_are_lines_over_steps_and_layers(plan: list) -> None:  # type: ignore[type-arg]
    series = read_series(plan, {"mask/overlap", "mask/energy_kept", "mask/moved_fraction"}, axis=Axis())
    figure = facts_over_steps(series, task="long_words", along=Axis())
    assert figure is not None
    assert figure.axes[0].get_title() == "gmt, long_words"
    assert figure.axes[2].get_xlabel() == "optimizer step"
    overlap = figure.axes[1].get_lines()
    assert [line.get_label() for line in overlap] == ["0.5", "0.9"]
    assert overlap[0].get_xydata().tolist() == [[10, 0.1], [20, 0.2]]
    layers = facts_by_layer(series, task="long_words", along=Axis())
    assert layers is not None
    assert [label.get_text() for label in layers.axes[2].get_xticklabels()] == ["layer 0", "layer 1"]
    assert layers.axes[1].get_lines()[0].get_ydata().tolist() == [0, 0.1]
    assert facts_over_steps(series, task="other", along=Axis()) is None
    assert facts_by_layer(series[series["layer"].isna()], task="long_words", along=Axis()) is None


def test_the_density_farthest_from_its_target_is_named(plan: list) -> None:  # type: ignore[type-arg]
    table = read_table(plan, axis=Axis())
    table.loc[table["axis"] == 0.9, "density"] = 0.13
    assert "by at most 0.03: gmt 0.9 has 0.13 for 0.1." in (density_in_words(table) or "")
    assert density_in_words(table[table["arm"] == "sft"]) is None


def test_a_row_of_step_times_for_each_choice(plan: list) -> None:  # type: ignore[type-arg]
    """Of runs that shared their machine, forward and backward are left out: they would show the neighbours' work."""
    runs = costs_of_runs(read_table(plan, axis=Axis()), read_series(plan, {"mask/overlap"}, axis=Axis()))
    runs = runs.assign(label=runs["arm"] + runs["axis"].astype("string").fillna(""))
    alone, shared = (
        time_of_a_step(runs, task="long_words", baseline=["sft"], is_shared=is_shared) for is_shared in (False, True)
    )
    assert [axis.get_title() for axis in alone.axes] == [
        "mask, ms a step",
        "optimizer, ms a step",
        "forward and backward, ms a step",
    ]
    assert len(shared.axes) == 2
    assert {label.get_text() for label in alone.axes[0].get_yticklabels()} == {"sft", "gmt0.5", "gmt0.9"}
    assert _means(alone.axes[2]) == pytest.approx([120] * 3)


def _means(axis: Any) -> list[float]:
    """The large points of a dot plot's panel."""
    return [float(x) for line in axis.get_lines() if line.get_marker() == "o" for x in line.get_xdata()]


def test_the_front_holds_what_nothing_beats(plan: list) -> None:  # type: ignore[type-arg]
    assert pareto_front(np.array([1, 2, 3, 3]), np.array([5, 4, 6, 7])).tolist() == [True, False, False, True]
    assert pareto_front(np.array([1, 1]), np.array([5, 5])).tolist() == [True, True]
    summary = summarise(read_table(plan, axis=Axis()), ["train_s", "target_after"])
    axis = score_against_cost(summary, task="long_words", cost="train_s", label="s").axes[0]
    assert axis.get_lines()[-1].get_label() == "Pareto front"
    assert axis.get_lines()[-1].get_ydata().tolist() == pytest.approx([72.5])  # all cost the same: the best alone


def test_what_a_mask_adds_to_a_step_is_drawn_against_the_size(plan: list) -> None:  # type: ignore[type-arg]
    small = read_table(plan, axis=Axis())
    small = small.assign(mask_s=small["mask_s"].where(small["arm"] != "sft", 0.0))
    large = small.assign(num_parameters=10 * small["num_parameters"], mask_s=small["mask_s"] / 2)
    times, shares = cost_against_size(pd.concat([small, large])).axes
    assert [line.get_label() for line in times.get_lines()] == ["sft", "gmt 0.5", "gmt 0.9"]
    assert times.get_lines()[1].get_ydata().tolist() == pytest.approx([136, 133])
    assert [container.get_label() for container in shares.containers] == ["gmt 0.5", "gmt 0.9"]
    assert shares.containers[0].lines[0].get_ydata().tolist() == pytest.approx([600 / 130, 300 / 130])


def test_ranks_over_more_than_a_decade_are_on_a_logarithmic_scale_with_the_arms_side_by_side() -> None:
    ranks = (2, 8, 64)
    rows = [("sft", None), *((arm, rank) for arm in ("lora", "dora") for rank in ranks)]
    summary = _summary(rows, ["arm", "axis"], n=5).assign(task="t")
    figure = score_along(summary, _seeds(summary), TARGET, task="t", along=Axis("method.rank"))
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_xlabel()) == ("log", "rank")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "8", "64"]
    lora, dora = (container.lines[0].get_xdata() for container in axis.containers)
    assert lora == pytest.approx(ranks, rel=0.1)
    assert (dora / lora).tolist() == pytest.approx([(64 / 2) ** 0.008] * 3)  # the same distance at each rank
    few = summary[summary["axis"] != 64]
    near = score_along(few, _seeds(few), TARGET, task="t", along=Axis("method.rank"))
    assert near.axes[0].get_xscale() == "linear"


def test_few_seeds_are_points_and_no_axis_goes_beyond_the_possible() -> None:
    """The interval of two seeds reaches from -150 to 310 %, and says nothing."""
    seeds = pd.DataFrame(
        {
            "arm": "gmt",
            "task": "t",
            "axis": [0.5, 0.5, 0.9, 0.9],
            "seed": [1, 2, 1, 2],
            "target_after": [0.6, 1, 0.9, 1],
        }
    ).astype({"axis": float})
    rows = [("gmt", 0.5, 0.8, -1.5, 3.1), ("gmt", 0.9, 0.95, 0.3, 1.6)]
    columns = ["arm", "axis", "target_after", "target_after_low", "target_after_high"]
    summary = pd.DataFrame(rows, columns=columns).assign(task="t", n=2)
    (axis,) = score_along(summary, seeds, TARGET, task="t", along=Axis()).axes
    _, points = axis.get_lines()
    assert points.get_ydata().tolist() == pytest.approx([60, 100, 90, 100])
    assert not axis.containers
    assert axis.get_ylim() == pytest.approx((60 - 0.06 * 40, 101))
    (many,) = score_along(summary.assign(n=5), seeds, TARGET, task="t", along=Axis()).axes
    assert many.get_ylim() == pytest.approx((-1, 101))
    assert FORGETTING.limits(pd.Series([-300.0, 20])) == pytest.approx((-101, 27.2))


def test_masks_of_many_arms_are_rows_and_shades(plan: list) -> None:  # type: ignore[type-arg]
    series = read_series(plan, {"mask/overlap", "mask/energy_kept", "mask/moved_fraction"}, axis=Axis())
    series = series.assign(label=series["arm"] + series["axis"].astype("string"))
    facts = facts_by_choice(series, task="long_words")
    assert facts is not None
    assert [axis.get_title() for axis in facts.axes][1] == "overlap with the mask before (Jaccard)"
    assert _means(facts.axes[1]) == pytest.approx([0.2, 0.2])  # the last step
    layers = layers_by_choice(series, task="long_words")
    assert layers is not None
    overlap = layers.axes[1].images[0].get_array()
    assert overlap is not None
    assert overlap.tolist() == [[0, 0.1], [0, 0.1]]
    assert layers_by_choice(series, task="other") is None


def test_masks_of_an_arm_without_the_axis_are_one_line(plan: list) -> None:  # type: ignore[type-arg]
    series = read_series(plan, {"mask/overlap", "mask/energy_kept", "mask/moved_fraction"}, axis=Axis("method.rank"))
    figure = facts_over_steps(series, task="long_words", along=Axis("method.rank"))
    assert figure is not None
    (line,) = figure.axes[1].get_lines()
    assert line.get_xydata().tolist() == [[10, 0.1], [20, 0.2]]
    assert figure.legends[0].get_title().get_text() == "rank"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none"]


def test_the_legend_of_a_diagnostic_is_no_wider_than_its_figure() -> None:
    labels = [f"lora targets=attention_and_mlp learning_rate=0.00{i}" for i in range(1, 6)]
    rows = pd.DataFrame(
        {"label": label, "other_label": None, "run_id": label, "layer": layer, "name": "drift", "value": 0.1}
        for label in labels
        for layer in (0, 1)
    )
    figure = figure_of(rows, {"title": "Drift", "panels": {"drift": "relative norm"}})
    assert figure is not None
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels
    assert legend.get_window_extent().width <= figure.bbox.width


def test_choices_that_no_other_beats_are_joined_and_named() -> None:
    rows = [("sft", None, 0.7, 0.4), ("gmt", 0.5, 0.7, 0.2), ("gmt", 0.9, 0.5, 0.1), ("rmt", 0.9, 0.4, 0.3)]
    rows += [(f"arm {i}", 0.9, 0.1, 0.5) for i in range(9)]
    points = pd.DataFrame(rows, columns=["arm", "axis", "target", "forgetting"]).assign(task="t")
    figure = choices_on_the_front(points, task="t", baseline="sft", at=0.68)
    assert figure is not None
    (axis,) = figure.axes
    assert {text.get_text() for text in axis.texts} == {"sft", "gmt 0.5", "gmt 0.9"}
    joined = next(line for line in axis.get_lines() if line.get_drawstyle().startswith("steps"))
    assert sorted(joined.get_ydata()) == pytest.approx([10, 20])
    assert choices_on_the_front(points, task="other", baseline="sft", at=None) is None

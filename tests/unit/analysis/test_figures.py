"""Figures hold what the tables say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.cost_figures import cost_against_size, pareto_front, score_against_cost, time_of_a_step
from gmt_analysis.diagnostic_figures import figure_of
from gmt_analysis.figures import score_along
from gmt_analysis.mask_figures import (
    density_against_asked,
    facts_by_layer,
    facts_over_steps,
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
    summary = pd.DataFrame(rows, columns=["arm", "task", "axis"]).assign(
        n=3, score=0.5, score_low=0.4, score_high=0.6, target_after=0.5, cost=1.0
    )
    scores = score_along(summary, "score", along=Axis(), title="", unit="")
    for figure in (scores, score_against_cost(summary, cost="cost", label="")):
        one, other = (
            {label.split()[0]: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
            for axis in figure.axes
        )
        assert _colour(one["rmt"]) == _colour(other["rmt"]) != _colour(one["gmt"])


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


def test_density_is_drawn_against_what_was_asked(plan: list) -> None:  # type: ignore[type-arg]
    axis = density_against_asked(read_table(plan, axis=Axis())).axes[0]
    assert [line.get_label() for line in axis.get_lines()] == ["as asked", "gmt"]
    assert sorted(axis.get_lines()[1].get_xdata()) == pytest.approx([0.1, 0.1, 0.5, 0.5])


def test_the_parts_of_a_step_add_up(plan: list) -> None:  # type: ignore[type-arg]
    summary = summarise(read_table(plan, axis=Axis()), ["forward_backward_s", "mask_s", "optimizer_s", "target_after"])
    axis = time_of_a_step(summary).axes[0]
    ends = {round(patch.get_x() + patch.get_width(), 6) for patch in axis.patches}
    assert ends == {120, 126, 136}
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "sft, long_words",
        "gmt 0.5, long_words",
        "gmt 0.9, long_words",
    ]


def test_the_front_holds_what_nothing_beats(plan: list) -> None:  # type: ignore[type-arg]
    assert pareto_front(np.array([1, 2, 3, 3]), np.array([5, 4, 6, 7])).tolist() == [True, False, False, True]
    assert pareto_front(np.array([1, 1]), np.array([5, 5])).tolist() == [True, True]
    summary = summarise(read_table(plan, axis=Axis()), ["train_s", "target_after"])
    axis = score_against_cost(summary, cost="train_s", label="s").axes[0]
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
    summary = pd.DataFrame(rows, columns=["arm", "axis"]).assign(
        task="t", n=3, score=0.5, score_low=0.4, score_high=0.6
    )
    figure = score_along(summary, "score", along=Axis("method.rank"), title="", unit="")
    (axis,) = figure.axes
    assert (axis.get_xscale(), axis.get_xlabel()) == ("log", "rank")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "8", "64"]
    lora, dora = (container.lines[0].get_xdata() for container in axis.containers)
    assert lora == pytest.approx(ranks, rel=0.1)
    assert (dora / lora).tolist() == pytest.approx([(64 / 2) ** 0.01] * 3)  # the same distance at each rank
    near = score_along(summary[summary["axis"] != 64], "score", along=Axis("method.rank"), title="", unit="")
    assert near.axes[0].get_xscale() == "linear"


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

"""A row for each choice: the figure of a study with many arms."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.dots import Panel, dot_plot
from gmt_analysis.rendering import as_image, as_svg

SCORE = Panel(column="score", title="score", factor=100, low=0, high=100)


def plotted(**scores: list[float]) -> Any:
    """The panel of a dot plot, whose first row is compared with."""
    rows = [(label, value) for label, values in scores.items() for value in values]
    values = pd.DataFrame(rows, columns=["label", "score"])
    return dot_plot(values, list(scores), [SCORE], title="", marked=list(scores)[:1]).axes[0]


def test_fewer_than_five_seeds_are_points_and_five_have_an_interval() -> None:
    few = plotted(sft=[0.4, 0.6], gmt=[0.7])
    small = [list(line.get_xdata()) for line in few.get_lines() if line.get_marker() == "."]
    assert sorted(small) == [pytest.approx([40, 60]), pytest.approx([70])]
    many = plotted(sft=[0.5] * 4 + [0.6], gmt=[0.9, 1, 1, 1, 1])
    assert not [line for line in many.get_lines() if line.get_marker() == "."]
    (interval,) = (line.get_xdata() for line in many.get_lines() if list(line.get_ydata()) == [1, 1])
    assert interval[1] == 100  # its t interval ends at 103.6


def test_rows_keep_their_order_and_the_baseline_is_marked() -> None:
    axis = plotted(sft=[0.4, 0.6], gmt=[0.7], rmt=[])
    labels = axis.get_yticklabels()
    assert [label.get_text() for label in labels] == ["sft", "gmt", "rmt"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal"]
    top, bottom = axis.get_ylim()[::-1]
    assert top < 0 < 2 < bottom


@pytest.mark.parametrize("number", [2, 60])
def test_a_figure_grows_with_its_rows(number: int) -> None:
    axis = plotted(**{f"arm_{i}": [i / number] for i in range(number)})
    assert axis.figure.get_figheight() == pytest.approx(1 + 0.19 * number)
    low, high = axis.get_xlim()
    assert -5 < low <= 0 <= high < 105


def test_the_middle_of_a_long_name_is_left_out() -> None:
    name = "random_entries learning_rate=0.001 weight_decay=0.1 0.99"
    (label,) = (text.get_text() for text in plotted(**{name: [0.5]}).get_yticklabels())
    assert label.startswith("random_entries")
    assert label.endswith("0.1 0.99")
    assert len(label) < len(name)


@pytest.mark.parametrize("name", ["w" * 27, "i" * 46, "random_entries learning_rate=0.001 weight_decay=0.1 0.99"])
def test_nothing_is_cut_off_at_the_edges_of_a_picture(name: str) -> None:
    values = pd.DataFrame({"label": [name, "sft"], "score": [0.0, 1.0]})
    panels = [SCORE, Panel(column="score", title="Forgetting: source score lost, percentage points")]
    figure = dot_plot(values, [name, "sft"], panels, title="Scores")
    as_svg(figure)  # computes the layout
    pixels = np.asarray(as_image(figure).convert("L"))
    edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    assert [edge.min() for edge in edges] == [255] * 4

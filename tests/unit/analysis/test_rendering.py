"""What a page shows of a figure: its letters, and a text over each point."""

import pytest
from gmt_analysis.rendering import as_image, as_pdf, as_svg, hover
from gmt_analysis.styles import COLOURS, arm_styles
from matplotlib.figure import Figure


def drawn(texts: list[str]) -> Figure:
    """A figure with as many points as texts, in a line."""
    figure = Figure(figsize=(3, 2), layout="constrained")
    axis = figure.subplots()
    (points,) = axis.plot(range(len(texts)), range(len(texts)), "o-")
    axis.set_title("An <odd> title")
    hover(points, texts)
    return figure


def test_each_point_has_its_own_text() -> None:
    svg = as_svg(drawn(["gmt 0.5: <70>", "gmt 0.9", "r\u00e9sum\u00e9"]))
    assert svg.startswith("<svg")
    titles = [part.partition("</title>")[0] for part in svg.split("<title>")[1:]]
    assert titles == ["gmt 0.5: &lt;70&gt;", "gmt 0.9", "r\u00e9sum\u00e9"]
    assert "An &lt;odd&gt; title" in svg  # as letters, which a reader can search
    assert "hover-" not in svg


def test_a_figure_is_laid_out_once_and_looks_the_same_as_a_new_one() -> None:
    figure = drawn(["a", "b"])
    first = as_svg(figure)
    assert as_svg(figure) == first == as_svg(drawn(["a", "b"]))
    assert as_pdf(figure) == as_pdf(figure)
    assert as_pdf(figure).startswith(b"%PDF")
    assert as_image(figure).size == (450, 300)


@pytest.mark.parametrize("number", [1, 7, 8, 60])
def test_no_two_arms_have_the_same_colour(number: int) -> None:
    styles = arm_styles([f"arm {i}" for i in range(number)])
    assert len({style.colour for style in styles.values()}) == number
    if number <= len(COLOURS):
        assert [style.colour for style in styles.values()] == list(COLOURS[:number])

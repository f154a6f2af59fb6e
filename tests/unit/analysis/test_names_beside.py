"""Names lie over no point and no other name; those that must stand do."""

from gmt_analysis.names_beside import write_names
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CROWD = [(0.5 + 0.01 * n, 0.5) for n in range(12)]
NAMES = [f"choice number {n}" for n in range(12)]


def written(num_certain: int = 0) -> Figure:
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 1), ylim=(0, 1), title="A title", xlabel="one score", ylabel="another score")
    write_names(axis, points=CROWD, names=NAMES, places=CROWD, num_certain=num_certain)
    return figure


def test_no_name_lies_over_another() -> None:
    figure = written()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert 2 <= len(boxes) < len(NAMES)
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])


def test_the_first_names_are_written_even_without_room() -> None:
    assert [text.get_text() for text in written(num_certain=12).axes[0].texts] == NAMES

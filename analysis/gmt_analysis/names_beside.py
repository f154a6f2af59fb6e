"""Writes names beside the points of a figure so that no name covers a point or another name."""

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_FRAME_IN = (0.8, 0.7)  # width and height of the labels and the title, outside the panel
_LETTER_IN, _HIGH_IN, _GAP_IN = 0.058, 0.1, 0.045  # a letter's width, a name's height, its distance to its point

Place = tuple[float, float]


def write_names(
    axis: Axes, *, points: Sequence[Place], names: Sequence[str], places: Sequence[Place], num_certain: int = 0
) -> None:
    """Write names beside their points; a name without free space is left out.

    Args:
        axis: the axes of a figure with a single panel; linear, with limits that are set.
        points: all drawn points.
        names: the names; an earlier name is placed before a later one.
        places: the point of each name.
        num_certain: the first so many names are written even without free space.
    """
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    wide, high = (size - frame for size, frame in zip(figure.get_size_inches(), _FRAME_IN, strict=True))
    panel = Bbox.from_extents(0, 0, wide, high)

    def inches(place: Place) -> Place:
        across, up = axis.transLimits.transform(place)
        return across * wide, up * high

    taken = [Bbox([point, point]) for point in map(inches, points)]
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        boxes = _boxes(*inches(place), len(name), panel)
        inside = [box for box in boxes if panel.contains(*box.min) and panel.contains(*box.max)]
        free = [box for box in inside if not any(map(box.padded(_GAP_IN / 2).overlaps, taken))]
        for box in (free or (inside if number < num_certain else []))[:1]:
            taken.append(box)
            axis.text(box.x0 / wide, box.y0 / high, name, fontsize=7, va="bottom", transform=axis.transAxes)


def _boxes(x: float, y: float, num_letters: int, panel: Bbox) -> Iterator[Bbox]:
    """Yield the places of a name beside its point, towards the middle and above first."""
    wide = _LETTER_IN * num_letters
    rights, lefts = (x + _GAP_IN, x + _GAP_IN + wide), (x - _GAP_IN - wide, x - _GAP_IN)
    for low, high in ((y + _GAP_IN, y + _GAP_IN + _HIGH_IN), (y - _GAP_IN - _HIGH_IN, y - _GAP_IN)):
        for left, right in (lefts, rights) if x > panel.width / 2 else (rights, lefts):
            yield Bbox.from_extents(left, low, right, high)

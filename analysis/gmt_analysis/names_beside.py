"""Names beside the points of a figure, where they lie over no point and no other name."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_FRAME_IN = (0.8, 0.7)  # the width and the height that labels and title take
_LETTER_IN, _HIGH_IN, _GAP_IN = 0.058, 0.1, 0.045  # a letter's width, a name's height, its distance to its point

Place = tuple[float, float]


def write_names(
    axis: Axes, *, points: Sequence[Place], names: Sequence[str], places: Sequence[Place], num_certain: int = 0
) -> None:
    """Write names beside their points; a name without room is left out.

    Args:
        axis: the only axes of a figure, linear, with their limits set.
        points: all drawn points.
        names: the names, in the order in which they take the room.
        places: the point of each name.
        num_certain: the number of first names that are written even without room.
    """
    figure = axis.get_figure()
    assert isinstance(figure, Figure)
    wide, high = (size - frame for size, frame in zip(figure.get_size_inches(), _FRAME_IN, strict=True))
    panel = _Box(0, 0, wide, high)

    def inches(place: Place) -> Place:
        across, up = axis.transLimits.transform(place)
        return across * wide, up * high

    taken = [_Box(x, y, x, y) for x, y in map(inches, points)]
    for number, (name, place) in enumerate(zip(names, places, strict=True)):
        inside = [box for box in _boxes(*inches(place), len(name), panel) if panel.holds(box)]
        free = [box for box in inside if not any(box.meets(other) for other in taken)]
        for box in (free or (inside if number < num_certain else []))[:1]:
            taken.append(box)
            axis.text(box.left / wide, box.low / high, name, fontsize=7, va="bottom", transform=axis.transAxes)


class _Box(NamedTuple):
    """A rectangle in the panel, in inches."""

    left: float
    low: float
    right: float
    high: float

    def holds(self, other: "_Box") -> bool:
        return (
            self.left <= other.left and self.low <= other.low and other.right <= self.right and other.high <= self.high
        )

    def meets(self, other: "_Box") -> bool:
        """Return whether they overlap, or come nearer than half a gap."""
        gap = _GAP_IN / 2
        across = self.left - gap < other.right and other.left - gap < self.right
        return across and self.low - gap < other.high and other.low - gap < self.high


def _boxes(x: float, y: float, num_letters: int, panel: _Box) -> Iterator[_Box]:
    """Yield the places of a name beside its point, towards the middle and above first."""
    wide = _LETTER_IN * num_letters
    rights, lefts = (x + _GAP_IN, x + _GAP_IN + wide), (x - _GAP_IN - wide, x - _GAP_IN)
    for low, high in ((y + _GAP_IN, y + _GAP_IN + _HIGH_IN), (y - _GAP_IN - _HIGH_IN, y - _GAP_IN)):
        for left, right in (lefts, rights) if x > panel.right / 2 else (rights, lefts):
            yield _Box(left, low, right, high)

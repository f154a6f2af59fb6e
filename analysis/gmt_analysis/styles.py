"""The colours and markers of arms: no two arms of a study look alike, however many there are."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito's colours, told apart by colour-blind readers and in grey print with the markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
_GOLDEN = 0.618034  # of a turn from hue to hue: the next one always lies in the widest gap
_SHADES = ((0.85, 0.75), (0.6, 0.5), (0.45, 0.9))  # saturation and value


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of an arm in every figure."""

    colour: str
    marker: str


def arm_styles(arms: Iterable[str]) -> dict[str, Style]:
    """Return the look of each arm. Of more arms than COLOURS, colours differ still, but eyes need the names too."""
    names = list(dict.fromkeys(arms))
    colours = COLOURS if len(names) <= len(COLOURS) else tuple(_drawn(number) for number in range(len(names)))
    return {
        name: Style(colour=colours[number], marker=MARKERS[number % len(MARKERS)]) for number, name in enumerate(names)
    }


def _drawn(number: int) -> str:
    saturation, value = _SHADES[number % len(_SHADES)]
    rgb = colorsys.hsv_to_rgb(number * _GOLDEN % 1, saturation, value)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)

"""The colours and markers of arms: no two arms of a study look alike, however many there are."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito's colours: colour-blind readers can distinguish them, and grey prints can with the help of the markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
_GOLDEN = 0.618034  # of the colour circle between successive hues: each new hue falls into the widest gap
_SHADES = ((0.85, 0.75), (0.6, 0.5), (0.45, 0.9))  # saturation and value


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of an arm in every figure."""

    colour: str
    marker: str


def arm_styles(arms: Iterable[str]) -> dict[str, Style]:
    """Return the style of each arm. If there are more arms than COLOURS, all styles differ, but some look similar."""
    names = list(dict.fromkeys(arms))
    colours = COLOURS if len(names) <= len(COLOURS) else tuple(map(_generated, range(len(names))))
    return {
        name: Style(colour=colours[number], marker=MARKERS[number % len(MARKERS)]) for number, name in enumerate(names)
    }


def _generated(number: int) -> str:
    saturation, value = _SHADES[number % len(_SHADES)]
    rgb = colorsys.hsv_to_rgb(number * _GOLDEN % 1, saturation, value)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)

"""Renders figures as SVG for pages, as PDF for papers, and as pixels. All formats share one layout of a figure."""

import html
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

# Text is written as text and not as outlines, so that readers can select and search it and pages are smaller.
_SVG: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "gmt"}
# Without hinting, which rounds the width of each letter to whole pixels, text fits the layout that SVG and PDF share.
_PIXELS: dict[Any, Any] = {"text.hinting": "no_hinting"}
_HOVER = re.compile(r'<g id="hover-([0-9a-f]+)">')
_POINT = re.compile(r"<use ([^>]*)/>")
_PIXELS_AN_INCH = 150


def hover(artist: Artist, texts: Sequence[str]) -> None:
    """Show a text over each point of a scatter or of a line's markers while the mouse is on it, in `as_svg`.

    Args:
        artist: the scatter or line, with a marker for each text.
        texts: the texts of the points, in the order of the points.
    """
    artist.set_gid("hover-" + json.dumps(list(texts)).encode().hex())


def as_svg(figure: Figure) -> str:
    """Return the figure as an SVG element that can stand inside an HTML page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_SVG):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    _keep_layout(figure)
    text = buffer.getvalue()
    return _with_hover_texts(text[text.index("<svg") :])


def as_pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF for a paper, the same bytes each time."""
    buffer = io.BytesIO()
    FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]
    _keep_layout(figure)
    return buffer.getvalue()


def as_image(figure: Figure) -> Image.Image:
    """Return the figure as pixels, for pages that take no vectors."""
    buffer = io.BytesIO()
    figure.set_dpi(_PIXELS_AN_INCH)
    with matplotlib.rc_context(_PIXELS):
        FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    _keep_layout(figure)
    return Image.open(buffer)


def _keep_layout(figure: Figure) -> None:
    """Make the next drawing of a figure reuse its layout, whose computation takes half the time of a drawing."""
    figure.set_layout_engine("none")


def _with_hover_texts(svg: str) -> str:
    """Return an SVG in which the points of `hover` have their texts as titles."""
    parts = _HOVER.split(svg)  # text, hex, text, hex, text
    shown = [parts[0]]
    for code, rest in zip(parts[1::2], parts[2::2], strict=True):
        texts = iter(json.loads(bytes.fromhex(code)))
        shown.append("<g>" + _POINT.sub(lambda use, texts=texts: _titled(use, next(texts, None)), rest))
    return "".join(shown)


def _titled(use: re.Match[str], text: str | None) -> str:
    return use[0] if text is None else f"<use {use[1]}><title>{html.escape(text)}</title></use>"

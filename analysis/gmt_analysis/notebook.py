"""What the notebooks call: a study by its name, and figures and sentences as a notebook shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from transformers.utils import logging

from gmt.studies.opened import planned
from gmt_analysis.rendering import as_svg
from gmt_analysis.results import Results


def open_study(
    study: str, overrides: Sequence[str] = (), config_dir: str | None = None, *, dirty: bool = False
) -> Results:
    """The results of a study, from the run records below `record.root` of this folder.

    Args:
        study: its name, as `study=NAME` on the command line.
        overrides: those that it was swept with.
        config_dir: a config folder of your own.
        dirty: whether runs of a checkout with uncommitted changes count.

    Raises:
        UserError: there is no such study, or no run of it is done.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # one for each model that is loaded
    plan, _ = planned([f"study={study}", *overrides], config_dir)
    return Results(plan, dirty=dirty)


@dataclass(frozen=True)
class Drawn:
    """Figures as a notebook shows them."""

    figures: Sequence[Figure]

    def _repr_html_(self) -> str:
        return "".join(f"<div>{as_svg(figure)}</div>" for figure in self.figures)


@dataclass(frozen=True)
class Said:
    """Sentences as a notebook shows them."""

    sentences: Sequence[str]

    def _repr_markdown_(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self.sentences) or "- Nothing."


def show(figures: Iterable[Figure]) -> Drawn:
    """Figures one below the other."""
    return Drawn(list(figures))


def say(results: Results, column: str) -> Said:
    """What the tests say of a measure: `target_after` or `forgetting`."""
    (found,) = (f for f in results.findings if f.measure.column == column)
    return Said(found.sentences)

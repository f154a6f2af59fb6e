"""What a diagnostic is to the rest of the program. Imports no library, so that a plan of diagnoses costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of a diagnosis.

    Args:
        name: of the value, e.g. `relative_norm`.
        value: must be finite. A value that is not defined, such as a ratio to 0, is left out.
        layer: the number of the layer; None for a value of the whole model or of a parameter outside all layers.
        matrix: the parameter, its layer's number written as `*`; None for a value of a layer or of the whole model.
    """

    name: str
    value: float
    layer: int | None = None
    matrix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The default figure of a diagnostic. A panel's form follows from the rows: by layer, by arm, or by pair of arms.

    Args:
        title: of the figure.
        panels: value name -> label with its unit; a panel for each. Values without rows are left out.
    """

    title: str
    panels: Mapping[str, str]


class Diagnostic(Protocol):
    """The settings of a diagnostic: a frozen dataclass that checks its values in `__post_init__`.

    The constructor's arguments are the config group `diagnostic`. It must be importable without torch: import it in
    `rows`.
    """

    @property
    def name(self) -> str:
        """The word for it in configs, tables and file names."""
        ...

    @property
    def needs_weights(self) -> bool:
        """Whether `rows` asks for the trained weights, so that a run without them is refused before anything starts."""
        ...

    @property
    def shown(self) -> Shown:
        """The default figure."""
        ...

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Measure one finished run.

        Args:
            run: must not be changed; the models that it gives may be.

        Raises:
            UserError: this run can't be measured; the sentence is shown, and the other runs are measured.
        """
        ...


@runtime_checkable
class ComparesRuns(Protocol):
    """An optional part of Diagnostic: it also measures pairs of runs of one base."""

    def compares(self, one: FinishedRun, other: FinishedRun) -> bool:
        """Whether a pair is to be measured; asked for each pair of a study once, so it must be quick."""
        ...

    def rows_of_pair(self, one: FinishedRun, other: FinishedRun) -> Iterable[Row]:
        """Measure a pair; the values must not depend on the order of the two."""
        ...

"""The protocol of diagnostics. Imports no library, so that planning diagnoses costs little."""

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
        name: the value's name, e.g. `relative_norm`.
        value: a finite number. Leave out a row whose value is undefined, such as a ratio to 0.
        layer: the layer's number; None for the whole model and for parameters outside all layers.
        matrix: the parameter's name with `*` for the layer's number; None for a layer and for the whole model.
    """

    name: str
    value: float
    layer: int | None = None
    matrix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The default figure of a diagnostic. The rows decide the form of a panel: by layer, by arm, or by pair of arms.

    Args:
        title: the figure's title.
        panels: a mapping from the name of a value to its label with unit; one panel for each value that has rows.
    """

    title: str
    panels: Mapping[str, str]


class Diagnostic(Protocol):
    """The settings of a diagnostic: a frozen dataclass that checks its values in `__post_init__`.

    The constructor's arguments are the config group `diagnostic`. Its module must be importable without torch: import
    torch in `rows`.
    """

    @property
    def name(self) -> str:
        """The diagnostic's name in configs, tables and file names, of letters that gmt.settings.folder_name takes."""
        ...

    @property
    def needs_weights(self) -> bool:
        """Whether `rows` reads the trained weights; runs without weights are then refused before any measurement."""
        ...

    @property
    def shown(self) -> Shown:
        """The default figure."""
        ...

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Measure one finished run.

        Args:
            run: the run; do not change it. The models that its methods return may be changed.

        Raises:
            UserError: this run can't be measured. The command shows the message and measures the other runs.
        """
        ...


@runtime_checkable
class ComparesRuns(Protocol):
    """An optional part of Diagnostic: it also measures pairs of runs with the same base."""

    def compares(self, one: FinishedRun, other: FinishedRun) -> bool:
        """Whether to measure a pair; called once for each pair of a study, so it must be quick."""
        ...

    def rows_of_pair(self, one: FinishedRun, other: FinishedRun) -> Iterable[Row]:
        """Measure a pair; the values must not depend on the order of the runs."""
        ...

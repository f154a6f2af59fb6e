"""The evaluations of a task: suites, whose questions are answered by generation, and benchmarks with their own code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

from gmt import settings
from gmt.errors import UserError, together, within
from gmt.tasks.protocol import Benchmark, Suite
from gmt.used_files import KnowsItsFiles, UsedFiles

_MEAN = "mean"  # the key of the mean beside the evaluations in a result


@runtime_checkable
class Questions(Protocol):
    """The settings of a suite: a frozen dataclass that checks its values, but draws no question, in `__post_init__`."""

    def fingerprint(self) -> str:
        """Return a text that identifies the questions beyond the settings; it enters the run id."""
        ...

    def suite(self, name: str) -> Suite:
        """Return the questions and their scorer, under the name that the task gives them."""
        ...


Evaluation = Questions | Benchmark


def check_evaluations(setting: str, evaluations: Mapping[str, object]) -> None:
    """Check the evaluations of a part.

    Raises:
        UserError: the mapping is empty, an entry is not an evaluation, or no entry yields a score in [0, 1].
    """
    if not isinstance(evaluations, Mapping) or not evaluations:
        raise UserError(f"{setting} must name at least one evaluation, got none")
    check_names(setting, evaluations)
    for name, evaluation in evaluations.items():
        if not isinstance(evaluation, Questions | Benchmark):
            raise UserError(f"{setting}.{name} must be an evaluation with a _target_, got {evaluation!r}")
    if not any(isinstance(entry, Questions) or entry.is_score for entry in evaluations.values()):  # type: ignore[attr-defined]
        raise UserError(f"{setting} must name an evaluation with a score, got {', '.join(evaluations)} alone")


def check_names(setting: str, names: Iterable[object]) -> None:
    """Check the names of a part's evaluations, which become names of files.

    Raises:
        UserError: a name can't name a folder, differs from another by case only, or is `mean`.
    """
    if _MEAN in settings.folder_names(f"the name of an evaluation in {setting}", names):
        raise UserError(f"the name of an evaluation in {setting} must not be {_MEAN}, the name of the mean over all")


def make_suites(setting: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Suite | Benchmark]:
    """Return the suites and benchmarks by name."""

    def make(name: str, evaluation: Evaluation) -> Suite | Benchmark:
        with within(f"{setting}.{name}"):
            return evaluation.suite(name) if isinstance(evaluation, Questions) else evaluation

    suites = together(*(partial(make, name, evaluation) for name, evaluation in evaluations.items()))
    return dict(zip(evaluations, suites, strict=True))


def fingerprints(*parts: Mapping[str, Evaluation]) -> str:
    """Return the fingerprints of all evaluations, in their order."""
    return ", ".join(f"{name}: {evaluation.fingerprint()}" for part in parts for name, evaluation in part.items())


def used_files(target: Mapping[str, Evaluation], source: Mapping[str, Evaluation]) -> dict[str, UsedFiles]:
    """Return the files that evaluations read, by names such as `target.gsm8k.data`."""
    return {
        f"{part}.{name}.{file_name}": used
        for part, evaluations in (("target", target), ("source", source))
        for name, evaluation in evaluations.items()
        if isinstance(evaluation, KnowsItsFiles)
        for file_name, used in evaluation.used_files().items()
    }

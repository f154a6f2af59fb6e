"""What a task evaluates: questions that are answered by generation, or benchmarks that ask in their own way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

from gmt import settings
from gmt.errors import UserError, together, within
from gmt.tasks.protocol import Benchmark, Suite
from gmt.used_files import KnowsItsFiles, UsedFiles

_MEAN = "mean"  # beside the evaluations in a result


@runtime_checkable
class Questions(Protocol):
    """Makes a suite: a frozen dataclass that checks its values in `__post_init__`, and makes no question yet."""

    def fingerprint(self) -> str:
        """Names what is asked beyond what the settings say; enters the run id."""
        ...

    def suite(self, name: str) -> Suite:
        """The questions and their scorer, under the name that the task gives them."""
        ...


Evaluation = Questions | Benchmark


def built(setting: str, evaluations: Mapping[str, object]) -> None:
    """Checks the evaluations of a part.

    Raises:
        UserError: The mapping is empty, an entry is not an evaluation, or no entry yields a score in [0, 1].
    """
    if not isinstance(evaluations, Mapping) or not evaluations:
        raise UserError(f"{setting} must name at least one evaluation, got none")
    check_names(setting, evaluations)
    for name, evaluation in evaluations.items():
        if not isinstance(evaluation, Questions | Benchmark):
            raise UserError(f"{setting}.{name} must be an evaluation with a _target_, got {evaluation!r}")
    if not any(isinstance(each, Questions) or each.is_score for each in evaluations.values()):  # type: ignore[attr-defined]
        raise UserError(f"{setting} must name an evaluation with a score, got {', '.join(evaluations)} alone")


def check_names(setting: str, names: Iterable[object]) -> None:
    """Check the names of a part's evaluations, each of which names files of its own.

    Raises:
        UserError: A name is no name of a folder, differs from another by case only, or is that of the mean.
    """
    if _MEAN in settings.folder_names(f"the name of an evaluation in {setting}", names):
        raise UserError(f"the name of an evaluation in {setting} must not be {_MEAN}, which is that of all of them")


def made(setting: str, evaluations: Mapping[str, Evaluation]) -> dict[str, Suite | Benchmark]:
    """The suites and benchmarks by name."""

    def make(name: str, each: Evaluation) -> Suite | Benchmark:
        with within(f"{setting}.{name}"):
            return each.suite(name) if isinstance(each, Questions) else each

    suites = together(*(partial(make, name, each) for name, each in evaluations.items()))
    return dict(zip(evaluations, suites, strict=True))


def fingerprints(*parts: Mapping[str, Evaluation]) -> str:
    """Of all evaluations, in their order."""
    return ", ".join(f"{name}: {each.fingerprint()}" for part in parts for name, each in part.items())


def used_files(target: Mapping[str, Evaluation], source: Mapping[str, Evaluation]) -> dict[str, UsedFiles]:
    """The files that evaluations read, e.g. by `target.gsm8k.data`."""
    return {
        f"{part}.{name}.{word}": used
        for part, named in (("target", target), ("source", source))
        for name, each in named.items()
        if isinstance(each, KnowsItsFiles)
        for word, used in each.used_files().items()
    }

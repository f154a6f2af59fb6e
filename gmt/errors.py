"""Exceptions that are shown as sentences, without a traceback; all other exceptions keep their traceback."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class UserError(Exception):
    """A user's mistake, shown as its sentences without a traceback. Exit code 2.

    Args:
        *sentences: one for each independent fault; a sentence names the setting, the rule and the value got.
    """

    def __init__(self, *sentences: str):
        super().__init__("\n".join(sentences))
        self.sentences: Sequence[str] = sentences


class NoAnswer(UserError):
    """A tracking store does not answer. Exit code 2, since nothing was started."""


class RunFailed(Exception):
    """A run started and failed; its record holds the traceback. Exit code 1.

    Args:
        sentence: the failure in a sentence.
        kind: the kind of failure, see gmt.runs.failures; None for several runs.
    """

    def __init__(self, sentence: str, kind: str | None = None):
        super().__init__(sentence)
        self.kind = kind


class MachineFault(Exception):
    """A disk, a network, a device or a server failed during a read, and may recover. Exit code 1."""


class Interrupted(Exception):
    """A run ended on request; it can be resumed from its checkpoint or its stored scores."""


class StoppedEarly(Exception):
    """A search ended a run before its last step; the run is not finished, and could be resumed from its checkpoint."""


class Diverged(Exception):
    """A loss or a weight became NaN or Inf: a final outcome of the run, not a fault of the machine."""


@contextmanager
def within(setting: str) -> Iterator[None]:
    """Prefix the sentences of a UserError with the config key, unless they start with it already."""
    try:
        yield
    except UserError as error:
        raise UserError(*(s if s.startswith(setting) else f"{setting}: {s}" for s in error.sentences)) from error


def for_each(rows: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """Return the results of a function for all rows of a dataset.

    Raises:
        UserError: the function raised it for some rows; the sentence is that of the first such row, with their number.
    """
    results: list[R] = []
    faults: list[UserError] = []
    for row in rows:
        try:
            results.append(make(row))
        except UserError as error:
            faults.append(error)
    if faults:
        others = "" if len(faults) == 1 else f" ({len(faults)} rows in all are wrong)"
        raise UserError(f"{faults[0]}{others}") from faults[0]
    return results


def together(*makers: Callable[[], Any]) -> list[Any]:
    """Return the results of several functions.

    Raises:
        UserError: some of them raised it; it has the sentences of all of them.
    """
    results: list[Any] = []
    faults: list[str] = []
    for make in makers:
        try:
            results.append(make())
        except UserError as error:
            faults += [sentence for sentence in error.sentences if sentence not in faults]
    if faults:
        raise UserError(*faults)
    return results


def choices(wanted: str, valid: Iterable[str]) -> str:
    """Return a clause with the nearest valid name and all choices, e.g. `did you mean 'gmt'? (choices: gmt, rmt)`."""
    names = sorted(valid)
    near = get_close_matches(wanted, names, n=1)
    listed = ", ".join(names)
    return f"did you mean '{near[0]}'? (choices: {listed})" if near else f"choices: {listed}"

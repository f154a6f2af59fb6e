"""The errors that a user can cause, as sentences; everything else keeps its traceback."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class UserError(Exception):
    """A mistake in what was asked: shown as its sentences without a traceback, exit code 2.

    Args:
        *sentences: one for each independent fault, naming the setting, the rule and the value got.
    """

    def __init__(self, *sentences: str):
        super().__init__("\n".join(sentences))
        self.sentences: Sequence[str] = sentences


class NoAnswer(UserError):
    """A tracking store does not answer. Exit code 2, since nothing was started."""


class RunFailed(Exception):
    """A run that started and did not finish; its record holds the traceback. Exit code 1.

    Args:
        sentence: what broke.
        kind: of the failure, see gmt.runs.failures; None for several runs.
    """

    def __init__(self, sentence: str, kind: str | None = None):
        super().__init__(sentence)
        self.kind = kind


class MachineFault(Exception):
    """A disk, a network, a device or a server failed while something was read; it may recover. Exit code 1."""


class Interrupted(Exception):
    """A run that ended on request; it goes on from its checkpoint, or from the answers that it kept."""


class StoppedEarly(Exception):
    """A run that a search gave up, with a checkpoint from which it could go on; never a finished run."""


class Diverged(Exception):
    """Training left the finite numbers: a final outcome of the run, not a fault of the machine."""


@contextmanager
def within(setting: str) -> Iterator[None]:
    """Says in a UserError's sentences of which part of the config they are, where they don't themselves."""
    try:
        yield
    except UserError as error:
        raise UserError(*(s if s.startswith(setting) else f"{setting}: {s}" for s in error.sentences)) from error


def for_each(rows: Iterable[T], make: Callable[[T], R]) -> list[R]:
    """Makes something of each row of a dataset.

    Raises:
        UserError: the sentence of the first row that is wrong, and how many others are.
    """
    made: list[R] = []
    faults: list[UserError] = []
    for row in rows:
        try:
            made.append(make(row))
        except UserError as error:
            faults.append(error)
    if faults:
        others = "" if len(faults) == 1 else f" ({len(faults)} rows in all are wrong)"
        raise UserError(f"{faults[0]}{others}") from faults[0]
    return made


def together(*makers: Callable[[], Any]) -> list[Any]:
    """Makes several things.

    Raises:
        UserError: with the sentences of all that can't be made.
    """
    made: list[Any] = []
    faults: list[str] = []
    for make in makers:
        try:
            made.append(make())
        except UserError as error:
            faults += [sentence for sentence in error.sentences if sentence not in faults]
    if faults:
        raise UserError(*faults)
    return made


def choices(wanted: str, valid: Iterable[str]) -> str:
    """Says what would have been valid, the nearest name first, e.g. `did you mean 'gmt'? (gmt, rmt, sft)`."""
    names = sorted(valid)
    near = get_close_matches(wanted, names, n=1)
    listed = ", ".join(names)
    return f"did you mean '{near[0]}'? (choices: {listed})" if near else f"choices: {listed}"

"""How the commands write to a terminal: texts of models, libraries and files can't steer it."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# C0 without tab and line feed, DEL, and C1 (ECMA-48), by their escapes in Python.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WIDTHS_OF_HELP = (60, 100)  # columns, the fewest and the most


def help_width() -> int:
    """Return the number of columns that help fills: those of the terminal, from 60 to 100."""
    fewest, most = _WIDTHS_OF_HELP
    return max(fewest, min(most, shutil.get_terminal_size((most, 24)).columns))


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(printable(line), flush=True)


@contextmanager
def progress_line(task: str) -> Iterator[Callable[[str], None]]:
    """Show what a long command does in one line that each stage overwrites; on a terminal only.

    Args:
        task: the work as a whole, before each stage.

    Yields:
        A function that takes the name of the stage that begins.
    """
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.console import Console

    with Console(stderr=True).status(printable(task), spinner="line") as status:
        yield lambda stage: status.update(printable(f"{task}: {stage}"))


def printable(text: str) -> str:
    """Return a text with its control characters, but for tab and line feed, as escapes; halves of letters likewise."""
    return text.translate(_CONTROLS).encode(errors="backslashreplace").decode()


def printable_log(text: str) -> str:
    """Return what programs write to logs: without colours, and what a progress bar overwrites on lines of its own."""
    return printable(_COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, each as wide as its widest cell."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]
    )

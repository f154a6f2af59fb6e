"""Writes to a terminal; control characters in texts of models, libraries and files are escaped."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# C0 without tab and line feed, DEL, and C1 (ECMA-48), with their escapes in Python.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_WIDTHS_OF_HELP = (60, 100)  # columns, the fewest and the most


def help_width() -> int:
    """Return the number of columns that help fills: those of the terminal, from 60 to 100."""
    fewest, most = _WIDTHS_OF_HELP
    return max(fewest, min(most, shutil.get_terminal_size((most, 24)).columns))


def say(line: str) -> None:
    """Print a line and flush it."""
    print(printable(line), flush=True)


@contextmanager
def progress_line(task: str) -> Iterator[Callable[[str], None]]:
    """Show the stage of a long command in one line that each stage overwrites; only on a terminal.

    Args:
        task: the name of the whole work, which precedes the stage.

    Yields:
        A function to call with the name of each stage when it begins.
    """
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.console import Console

    with Console(stderr=True).status(printable(task), spinner="line") as status:
        yield lambda stage: status.update(printable(f"{task}: {stage}"))


def printable(text: str) -> str:
    """Return a text with control characters, except tab and line feed, and lone surrogates as escapes."""
    return text.translate(_CONTROLS).encode(errors="backslashreplace").decode()


def printable_log(text: str) -> str:
    """Return the log of a program without colours, and with each state of a progress bar on its own line."""
    return printable(_COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return rows as lines of aligned columns, each as wide as its widest cell."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]
    )

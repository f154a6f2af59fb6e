"""Shows the progress of a sweep: a live table in a terminal, plain lines elsewhere."""

import sys

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gmt.duration import duration, took
from gmt.studies.watch import Ended, Progress, Running, Snapshot
from gmt.terminal import printable, say


def progress() -> Progress:
    """Return a live table if standard output is a terminal, else plain lines."""
    return LiveTable(Console()) if sys.stdout.isatty() else Lines()


class Lines:
    """Prints a line for each run that ends."""

    def show_end(self, ended: Ended) -> None:
        """Print the line."""
        say(line(ended))

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Print nothing, since a log would grow every second."""

    def close(self) -> None:
        """Do nothing."""


class LiveTable:
    """Prints the same lines above a live table of the running runs.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console):
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show_end(self, ended: Ended) -> None:
        """Print the line above the table."""
        self._live.console.print(printable(line(ended)), markup=False, highlight=False, soft_wrap=True)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        """Draw the table again."""
        self._live.update(_table(snapshot), refresh=True)

    def close(self) -> None:
        """Remove the table; the lines stay."""
        self._live.stop()


def line(ended: Ended) -> str:
    """Return a line about the end of one run."""
    number = f"[{ended.number:>{len(str(ended.total))}}/{ended.total}]"
    record, label = ended.planned.record, ended.planned.point.label
    if ended.state != "done":
        error = record.status().get("error") or "stopped before its end"
        return f"{number} {ended.state:<7} {label}: {error} ({record.folder})"
    result = record.result()
    scores = f"target {result.after['target']['mean']:.1%}, source {result.after['source']['mean']:.1%}"
    time_left = f", about {duration(ended.seconds_left)} left" if ended.seconds_left else ""
    attempts = record.status().get("attempts", 1)
    attempt = f", attempt {attempts}" if attempts > 1 else ""
    return f"{number} done    {label}: {scores}{took(result.seconds)}{attempt}{time_left}"


def _table(snapshot: Snapshot) -> Group:
    """Return the running runs as a table, and the counts of runs by state below it."""
    numbers = {"waiting": snapshot.num_waiting, "running": len(snapshot.running), "done": 0, "failed": 0}
    counts = ", ".join(f"{number} {state}" for state, number in (numbers | dict(snapshot.ended)).items())
    time_left = "" if snapshot.seconds_left is None else f"; about {duration(snapshot.seconds_left)} left"
    table = Table(box=None, pad_edge=False)
    for name in ("running", "attempt", "step", "loss", "tokens/s", "evaluating"):
        table.add_column(name, justify="left" if name in ("running", "evaluating") else "right")
    for run in snapshot.running:
        table.add_row(*(Text(printable(cell)) for cell in _cells(run)))  # a str would be read as markup
    return Group(table, Text(counts + time_left)) if snapshot.running else Group(Text(counts + time_left))


def _cells(run: Running) -> list[str]:
    loss = "" if run.loss is None else f"{run.loss:.4f}"
    pace = "" if run.tokens_per_s is None else f"{run.tokens_per_s:,.0f}"
    evaluation = run.evaluation or ""
    step = "" if run.step is None and evaluation else "starting" if run.step is None else str(run.step)
    return [run.label, str(run.attempt), step, loss, pace, evaluation]

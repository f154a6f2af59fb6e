"""`gmt export RUN`: writes a finished run as a sparse delta, a peft adapter or a Hugging Face folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.placing import check_free
from gmt.records.finding import find_record
from gmt.runs.build import settings_of
from gmt.runs.settings import RecordSettings
from gmt.terminal import printable, say

KINDS = ("delta", "peft", "merged")


def export(
    run: str, overrides: Sequence[str], config_dir: str | None, *, paths: dict[str, str | None], force: bool
) -> None:
    """Write the exports, and print a line for each.

    Args:
        run: a run id or its first digits.
        overrides: the user's overrides, for `record.root`.
        config_dir: a config folder of the user's own, or None.
        paths: the path of each export by its kind, one of KINDS; None if no export of this kind is written.
        force: whether to replace exports that exist.

    Raises:
        UserError: no path is given, the run can't be exported, or a path exists already or lies in the run records.
    """
    chosen = {
        kind: Path(os.path.abspath(Path(text).expanduser())) for kind in KINDS if (text := paths[kind]) is not None
    }
    if not chosen:
        raise UserError("gmt export needs --delta FILE, --peft FOLDER or --merged FOLDER")
    with hydra_on(config_dir):
        settings = settings_of("record", RecordSettings, Composer().compose_plain(overrides)["record"])
    record = find_record(settings.runs, run)
    from transformers.utils import logging

    from gmt.runs.export import MARKER, delta_path, export_delta, export_merged, export_peft
    from gmt.runs.exported_run import ExportedRun

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for each model would bury our own
    for kind, path in chosen.items():
        is_file = kind == "delta"
        if settings.runs.resolve() in path.resolve().parents:
            raise UserError(f"--{kind} must name a place outside of the run records in {settings.runs}, got {path}")
        check_free(delta_path(path) if is_file else path, force=force, marker=None if is_file else MARKER)
    exported = ExportedRun(record, settings)
    write = {"delta": export_delta, "peft": export_peft, "merged": export_merged}
    for kind, path in chosen.items():
        with _progress(f"{kind} of run {record.id}") as on_progress:
            done = write[kind](exported, path, force=force, on_progress=on_progress)
        say(f"wrote {done.path}: {done.facts}")


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if standard error is a terminal; yield the function that moves it."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task(printable(label), total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)

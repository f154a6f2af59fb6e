"""`gmt check`: tries the laws of plug-ins on the user's config, and prints a line for each law."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gmt.checks.check import GROUPS, check
from gmt.errors import RunFailed
from gmt.terminal import say

ABOUT = (
    "Tries on a few steps of a small model what every plug-in must do, and prints a line for each law: it composes and "
    "builds, planning imports no torch, its run id is stable; it trains, saves, and goes on after kill -9 to the same "
    "bits; evaluations on the way and smaller micro-batches change nothing; bf16, DPO and two workers work, or are "
    f"refused in a sentence. Name what to check as GROUP=NAME ({', '.join(GROUPS)}), with --config-dir for one of "
    "your own; other settings are overrides. All runs are on the CPU. Exit code 1 where a law is broken."
)
_WIDTH = len("skipped")


def print_checks(overrides: Sequence[str], config_dir: str | None) -> None:
    """Prints a line for each law.

    Args:
        overrides: the user's, e.g. `method=NAME`.
        config_dir: a config folder of the user's own, or None.

    Raises:
        UserError: no group is named, or the config does not compose.
        RunFailed: a law is broken.
    """
    num_broken = num_tried = 0
    with tempfile.TemporaryDirectory(prefix="gmt-check-") as folder:
        for verdict in check(overrides, config_dir, Path(folder)):
            say(f"{verdict.state:<{_WIDTH}}  {verdict.law}" + (f": {verdict.detail}" if verdict.detail else ""))
            num_broken += verdict.state == "broken"
            num_tried += 1
    if num_broken:
        raise RunFailed(f"{num_broken} of {num_tried} laws {'is' if num_broken == 1 else 'are'} broken")
    say(f"none of {num_tried} laws is broken")

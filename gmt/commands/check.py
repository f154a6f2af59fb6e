"""`gmt check`: tests a method, a task, ... of the user's config against its laws, and prints a line for each law."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from gmt.checks.check import check
from gmt.errors import RunFailed
from gmt.terminal import say

_WIDTH = len("skipped")


def print_checks(overrides: Sequence[str], config_dir: str | None) -> None:
    """Print a line for each law.

    Args:
        overrides: the user's overrides, e.g. `method=NAME`.
        config_dir: a config folder of the user's own, or None.

    Raises:
        UserError: the overrides name no group to check, or the config does not compose.
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

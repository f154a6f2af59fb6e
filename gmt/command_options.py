"""The options of gmt's commands, and how their arguments are parsed."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from gmt.errors import UserError

_HELP_WIDTH = 100
Argument = tuple[str, dict[str, Any]]
RUN: Argument = ("run", {"metavar": "RUN"})
OTHER: Argument = ("other", {"metavar": "RUN"})
ANSWERS: Argument = (
    "--answers",
    {"type": int, "default": 3, "metavar": "N", "help": "examples of each kind of flip; default: 3"},
)
JOB: Argument = ("job", {"metavar": "JOB"})
RUNS: Argument = (
    "--runs",
    {"action": "store_true", "help": "a line for each run, however many there are"},
)
BRIEF: Argument = ("--brief", {"action": "store_true", "help": "leave the settings out"})
DELTA: Argument = (
    "--delta",
    {
        "metavar": "FILE",
        "help": "indices and values of the changed entries, as safetensors; in a folder: delta.safetensors",
    },
)
PEFT: Argument = (
    "--peft",
    {
        "metavar": "FOLDER",
        "help": "an adapter for peft: the run's own, or Super-Tuning for a run that changed linear layers alone",
    },
)
MERGED: Argument = ("--merged", {"metavar": "FOLDER", "help": "whole weights with tokenizer, for transformers"})
FORCE: Argument = ("--force", {"action": "store_true", "help": "replace an export that is there"})
PORT: Argument = ("--port", {"type": int, "default": None, "help": "default: 5000, or the next free one"})
BROWSER: Argument = ("--browser", {"action": "store_true", "help": "open a browser at the page"})
DIRTY: Argument = (
    "--dirty",
    {"action": "store_true", "help": "take runs that were made from a checkout with uncommitted changes, too"},
)
OPERATIONS: Argument = (
    "--operations",
    {
        "action": "store_true",
        "help": "count the floating-point operations of a step first: a second or two for each choice",
    },
)
DRY_RUN: Argument = ("--dry-run", {"action": "store_true", "help": "show what would be submitted; start nothing"})
FOLLOW: Argument = ("--follow", {"action": "store_true", "help": "go on until the job ends"})


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError in place of usage and exit."""
        raise UserError(f"{message}; `{self.prog} --help` shows what the command takes")


def parse(
    command: str, about: str, rest: Sequence[str], *arguments: Argument, more: str | None = None
) -> argparse.Namespace:
    """Parse the arguments of a command.

    Args:
        command: its name, e.g. `plan`.
        about: what it does, for --help.
        rest: the arguments after the command's name.
        arguments: those that it takes beside overrides and --config-dir.
        more: a text of several lines for the end of --help.

    Raises:
        UserError: an argument is unknown or lacks its value.
    """
    parser = Parser(prog=f"gmt {command}", description=about)
    if more is not None:  # after the options, with its own line breaks
        parser.description, parser.epilog = textwrap.fill(about, _HELP_WIDTH), more
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, options in arguments:
        parser.add_argument(name, **options)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY=VALUE", help="Hydra overrides, e.g. study=quickstart"
    )
    parser.add_argument("--config-dir", "-cd", default=None, help="a config folder of your own, searched first")
    return parser.parse_intermixed_args(list(rest))

"""Makes the parser of `gmt` from its commands, and parses a command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from gmt.commands.parsers import clusters, extending, helps, results, runs, views
from gmt.commands.parsers.overview import overview
from gmt.commands.parsers.parser import OVERRIDES, Parser, Section
from gmt.errors import UserError, choices

_SECTIONS = {
    "Runs": runs.add_commands,
    "Results": results.add_commands,
    "MLflow": views.add_commands,
    "Clusters": clusters.add_commands,
    "Methods, tasks, studies of your own": extending.add_commands,
    "Help": helps.add_commands,
}
_PROGRAM_FLAGS = ("-h", "--help", "--version")


class Program(Parser):
    """The parser of the program, whose help has a line for each command."""

    def format_help(self) -> str:
        """Return the overview of all commands."""
        return overview(sub_parsers(self))


@cache
def make_parser() -> Program:
    """Return the parser of the program; `do` of the parsed options carries the command out."""
    parser = Program(prog="gmt")
    about = "show the version of gmt-lab"
    parser.add_argument("--version", dest="own_version", action="store_true", help=about)  # gmt run has Hydra's
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for title, add_commands in _SECTIONS.items():
        add_commands(Section(title=title, commands=commands))
    return parser


def sub_parsers(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """Return the parsers of the commands, by name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    parsers: dict[str, Parser] = commands.choices
    return parsers


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, in which options and overrides stand in any order.

    Args:
        arguments: what follows `gmt`.

    Raises:
        UserError: there is no such command, or an argument is unknown or lacks its value.
    """
    parser = make_parser()
    commands = sub_parsers(parser)
    if arguments and arguments[0] not in (*commands, *_PROGRAM_FLAGS):
        raise UserError(f"gmt has no command {arguments[0]!r}; {choices(arguments[0], commands)}")
    options, rest = parser.parse_known_args(list(arguments))
    # argparse puts the overrides before the next option into options.overrides, and leaves later ones in rest.
    takes_overrides = hasattr(options, OVERRIDES)
    if unknown := [word for word in rest if word.startswith("-") or not takes_overrides]:
        command = commands.get(options.command, parser)
        command.error(f"unrecognized arguments: {' '.join(unknown)}{_nearest_flag(unknown[0], command)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _nearest_flag(word: str, command: Parser) -> str:
    """Return ` (did you mean FLAG?)` for the most similar flag; empty if no flag is similar."""
    flags = [flag for action in command._actions for flag in action.option_strings]
    near = get_close_matches(word.partition("=")[0], flags, n=1)
    return f" (did you mean {near[0]}?)" if near else ""

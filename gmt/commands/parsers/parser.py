"""The class of the commands' parsers, whose errors are one sentence, and their common arguments. Imports no command."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from gmt.errors import UserError
from gmt.terminal import help_width

if TYPE_CHECKING:
    from argparse import _SubParsersAction

OVERRIDES = "overrides"


class _Formatter(argparse.HelpFormatter):
    """Breaks the description into lines, and does not change the line breaks of the epilog."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=28, width=help_width(), **settings)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """The parser of a command; it states a user's mistake in one sentence.

    Attributes:
        section: the command's section in `gmt --help`.
        takes: the words that follow the command's name in the usage.
        summary: a line on the command.
        make_epilog: makes the lines at the end of the command's help when it is printed; None for a fixed epilog.
    """

    section = ""
    takes = ""
    summary = ""
    make_epilog: Callable[[], str] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError, where argparse would print the usage and exit."""
        raise UserError(f"{message}; `{self.prog} --help` shows what the command takes")

    def format_help(self) -> str:
        """Return the help, with the lines that `make_epilog` makes."""
        if self.make_epilog is not None:
            self.epilog = self.make_epilog()
        return super().format_help()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of `gmt --help`: its title, and all commands of the program."""

    title: str
    commands: _SubParsersAction[Parser]

    def add(
        self, name: str, do: Callable[[Namespace], None], *, takes: str, summary: str, about: str, **settings: Any
    ) -> Parser:
        """Add a command.

        Args:
            name: the command's name.
            do: carries the command out.
            takes: the words that follow the command's name in the usage.
            summary: a line on the command, for `gmt --help`.
            about: a paragraph on the command, for its own help.
            settings: further arguments of argparse's parser.
        """
        parser = self.commands.add_parser(
            name, help=summary, usage=f"gmt {name} {takes}".strip(), description=about, **settings
        )
        parser.section, parser.takes, parser.summary = self.title, takes, summary
        parser.set_defaults(do=do)
        return parser


def take_config(parser: Parser, example: str = "study=quickstart") -> None:
    """Let a command take overrides, of which the help shows an example, and a config folder of the user's own."""
    parser.usage = f"{parser.usage} [KEY=VALUE ...]"
    parser.add_argument(OVERRIDES, nargs="*", default=[], metavar="KEY=VALUE", help=f"Hydra overrides, e.g. {example}")
    take_config_dir(parser)


def take_config_dir(parser: Parser) -> None:
    """Let a command take a config folder of the user's own."""
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER", help="a config folder of your own, searched first")


def take_dirty(parser: Parser) -> None:
    """Let a command take results of code that was not committed."""
    about = "also take runs of a checkout with uncommitted changes"
    parser.add_argument("--dirty", action="store_true", help=about)

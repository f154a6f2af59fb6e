"""The class of the sub-parsers, with errors in one sentence, and their common arguments. Imports no command."""

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
    """Fills the description, and leaves the line breaks of the epilog."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=28, width=help_width(), **settings)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one sentence, and whose help is printed as one text.

    Attributes:
        section: the title in `gmt --help` that a command stands under.
        takes: the words that follow a command's name.
        summary: what a command does, in a line.
        more: makes the lines at the end of a command's help, which may read files; None for no such lines.
    """

    section = ""
    takes = ""
    summary = ""
    more: Callable[[], str] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError in place of usage and exit."""
        raise UserError(f"{message}; `{self.prog} --help` shows what the command takes")

    def format_help(self) -> str:
        """Return the help, with the lines that `more` makes."""
        if self.more is not None:
            self.epilog = self.more()
        return super().format_help()


@dataclass(frozen=True, kw_only=True)
class Section:
    """Commands that stand under one title in `gmt --help`."""

    title: str
    commands: _SubParsersAction[Parser]

    def add(
        self, name: str, do: Callable[[Namespace], None], *, takes: str, summary: str, about: str, **settings: Any
    ) -> Parser:
        """Add a command.

        Args:
            name: the command's name.
            do: carries the command out.
            takes: the words that follow the command's name.
            summary: what the command does, for `gmt --help`.
            about: what the command does, for its own help.
            settings: further ones of argparse's parser.
        """
        parser = self.commands.add_parser(
            name, help=summary, usage=f"gmt {name} {takes}".strip(), description=about, **settings
        )
        parser.section, parser.takes, parser.summary = self.title, takes, summary
        parser.set_defaults(do=do)
        return parser


def take_config(parser: Parser) -> None:
    """Let a command take overrides and a config folder of the user's own."""
    parser.usage = f"{parser.usage} [KEY=VALUE ...]"
    parser.add_argument(
        OVERRIDES, nargs="*", default=[], metavar="KEY=VALUE", help="Hydra overrides, e.g. study=quickstart"
    )
    take_config_dir(parser)


def take_config_dir(parser: Parser) -> None:
    """Let a command take a config folder of the user's own."""
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER", help="a config folder of your own, searched first")


def take_dirty(parser: Parser) -> None:
    """Let a command take results of code that is not committed."""
    about = "take runs that were made from a checkout with uncommitted changes, too"
    parser.add_argument("--dirty", action="store_true", help=about)

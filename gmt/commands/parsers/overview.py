"""Makes the text of `gmt --help`: a line for each command, from the commands' parsers."""

from collections.abc import Mapping
from itertools import groupby

from gmt.commands.parsers.parser import Parser

_BEGIN = "gmt: a laboratory for sparse fine-tuning of language models"
_END = """\
Start with `gmt plan study=quickstart`, which starts nothing. `gmt COMMAND --help` shows what a
command takes. KEY=VALUE, e.g. seed=2, changes a setting; all commands but new, help and completion
take settings.
"""
_INDENT = 40


def overview(commands: Mapping[str, Parser]) -> str:
    """Return the text.

    Args:
        commands: the commands' parsers by name, in the order of the text.
    """
    parts = [_BEGIN]
    for title, section in groupby(commands.items(), key=lambda item: item[1].section):
        parts.append("\n".join([f"{title}:", *(_line(name, command) for name, command in section)]))
    return "\n\n".join([*parts, _END])


def _line(name: str, command: Parser) -> str:
    words = f"  gmt {name} {command.takes}"
    gap = "\n" + " " * _INDENT if len(words) > _INDENT - 2 else " " * (_INDENT - len(words))
    return f"{words}{gap}{command.summary}"

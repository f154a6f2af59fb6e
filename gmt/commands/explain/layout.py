"""Lays help out in at most 100 columns, as argparse does: the words to type on the left, their meaning on the right."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gmt.commands.explain.setting import settings_class_of, settings_in
from gmt.docstrings import first_sentence
from gmt.terminal import help_width

_INDENT = 34


def entry(left: str, text: str) -> str:
    """Return an entry; if the words to type are too wide, the text begins on the next line.

    Args:
        left: the words to type.
        text: their meaning, a paragraph.
    """
    begin = f"  {left}"
    if not text:
        return begin
    indent = " " * _INDENT
    lines = textwrap.wrap(text, help_width(), initial_indent=indent, subsequent_indent=indent)
    if len(begin) > _INDENT - 2:
        return "\n".join([begin, *lines])
    return "\n".join([begin + lines[0][len(begin) :], *lines[1:]])


def paragraph(text: str, indent: int = 0) -> str:
    """Return a paragraph, broken into indented lines."""
    return textwrap.fill(text, help_width(), initial_indent=" " * indent, subsequent_indent=" " * indent)


def word_list(words: Iterable[str]) -> str:
    """Return names separated by commas, in lines that go below an entry and break between names."""
    indent = " " * _INDENT
    settings = {"initial_indent": indent, "subsequent_indent": indent, "break_on_hyphens": False}
    return textwrap.fill(", ".join(words), help_width(), break_long_words=False, **settings)  # type: ignore[arg-type]


def titled(title: str, lines: Sequence[str]) -> str:
    """Return the lines below a title."""
    return "\n".join([title, *lines])


def title_of(group: str, settings_class: type | None) -> str:
    """Return the title of a group's settings, with the first sentence of their class's docstring."""
    about = "" if settings_class is None else first_sentence(" ".join((settings_class.__doc__ or "").split()))
    return paragraph(f"{group}: {about.rstrip('.')}" if about else f"{group}:")


def group_settings(group: str, values: Mapping[str, Any]) -> str:
    """Return an entry for each setting of a group: the first sentence on the setting, and its choices."""
    entries = [entry(setting.assignment, setting.in_short) for setting in settings_in(group, values)]
    return titled(title_of(group, settings_class_of(group, values)), entries)

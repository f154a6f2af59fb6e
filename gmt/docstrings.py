"""Parses docstrings in Google style, and finds the end of a sentence."""

import inspect
import re
import textwrap

_ARGUMENT = re.compile(r"(\w+(?:, \w+)*):(?: (.*))?")
_LIST = re.compile(r"[\w, ]+,")  # names that go on in the next line
# The end of a sentence: a full stop before a capital, a digit or code, but for those of abbreviations.
_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bet al)(?<!\bvs)[.!?](?= +[A-Z`\d]|$)")


def arguments_of(doc: str | None) -> dict[str, str]:
    """Return the description of each argument in a docstring.

    Args:
        doc: a docstring in Google style, or None.

    Returns:
        A paragraph for each argument's name; names before the same colon share their paragraph.
    """
    _, _, section = inspect.cleandoc(doc or "").partition("Args:\n")
    paragraphs: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(_indented(section)).splitlines():
        begin = _ARGUMENT.fullmatch(line)
        if begin:
            names = begin[1].split(", ")
            paragraphs |= dict.fromkeys(names, begin[2] or "")
        elif names:
            paragraphs |= {name: f"{paragraphs[name]} {line.strip()}".strip() for name in names}
    return paragraphs


def _indented(section: str) -> str:
    """Return the lines of a section, with a list of names that goes on in the next line as one line."""
    lines: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if lines and _LIST.fullmatch(lines[-1].strip()) and not _ARGUMENT.fullmatch(lines[-1].strip()):
            lines[-1] = f"{lines[-1]} {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines)


def first_sentence(text: str) -> str:
    """Return the first sentence of a paragraph, with its full stop."""
    end = _END.search(text)
    return text if end is None else text[: end.end()]

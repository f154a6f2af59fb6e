"""Reads the links and headings of Markdown pages. Imports no library: tests and the site's hooks share it."""

import posixpath
import re
from collections.abc import Callable

_FENCED = re.compile(r"(^```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def replaced(text: str, replace: Callable[[str], str]) -> str:
    """Return a page with its links replaced, but for what stands in fenced code.

    Args:
        text: a Markdown page.
        replace: takes a link's target and returns another.
    """
    parts = _FENCED.split(text)
    return "".join(
        _LINK.sub(lambda found: replace(found[1]), part) if not part.startswith("```") else part for part in parts
    )


def links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures."""
    found: list[str] = []
    replaced(text, lambda target: found.append(target) or target)
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Python-Markdown make them."""
    titles = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in _HEADING.findall(_FENCED.sub("", text)))
    return {re.sub(r"[-\s]+", "-", title) for title in titles}


def is_of_the_repository(target: str) -> bool:
    """Return whether a link leads to a file of this repository, and not to the web or within its own page."""
    return "://" not in target and not target.startswith(("#", "mailto:"))


def resolved(page: str, target: str) -> tuple[str, str]:
    """Return the path in the repository that a link leads to, and the anchor there.

    Args:
        page: the path of the page with the link in the repository.
        target: the link's target.
    """
    path, _, anchor = target.partition("#")
    return (posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page), anchor

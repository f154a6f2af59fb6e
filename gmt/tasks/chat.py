"""Chat templates: how turns become one text. Imports no library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError, choices, within
from gmt.tasks.turns import frame_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "templates"
OF_TOKENIZER = "tokenizer"


def check_template(named: str | None) -> None:
    """Refuses a `task.chat_template` that names nothing.

    Raises:
        UserError: it is neither null, `tokenizer`, a file, nor the name of a template that ships inside.
    """
    if named not in (None, OF_TOKENIZER):
        _text(settings.text("task.chat_template", named))


def set_template(tokenizer: PreTrainedTokenizerBase, named: str | None) -> None:
    """Gives the tokenizer the template that a task asks for.

    Raises:
        UserError: it shall use its own, and has none, or the template does not fit what a model learns and is asked.
    """
    if named is None:
        return
    if named != OF_TOKENIZER:
        tokenizer.chat_template = _text(named)
    elif tokenizer.chat_template is None:
        raise UserError(
            "task.chat_template=tokenizer needs a model whose tokenizer has a chat template, and this one has none; "
            f"name a file instead, or one that ships inside ({', '.join(_shipped())})"
        )
    with within(f"task.chat_template={named}"):
        frame_of(tokenizer, is_chat=True)


def template_fingerprint(named: str | None) -> str:
    """The text of a template that is a file."""
    return "" if named in (None, OF_TOKENIZER) else _text(named)


def _text(named: str) -> str:
    try:
        return _file(named).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"task.chat_template must be a file of UTF-8 text, got {named!r}") from error


def _file(named: str) -> Path:
    if named in _shipped():
        return SHIPPED / f"{named}.jinja"
    file = Path(os.path.expanduser(named))
    if not file.is_file():
        raise UserError(
            f"task.chat_template must be null, {OF_TOKENIZER}, a file, or a template that ships inside, got {named!r}; "
            f"{choices(named, _shipped())}"
        )
    return file


def _shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.jinja"))

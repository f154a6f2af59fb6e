"""Chat templates, which turn a conversation into one text. Imports no library."""

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
# The parts of a fixed date, by the codes of strftime. Llama 3.2's template has this date where strftime_now is missing.
_DATE = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%-m": "7", "%B": "July", "%b": "Jul", "%d": "26", "%-d": "26"},
    **{"%A": "Friday", "%a": "Fri", "%j": "208", "%H": "00", "%I": "12", "%p": "AM", "%M": "00", "%S": "00"},
}
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace({code!r}, {text!r})" for code, text in _DATE.items())
    + " }}{% endmacro %}\n"  # trim_blocks, which transformers sets, takes the line feed
)


def check_template(name: str | None) -> None:
    """Refuse a `task.chat_template` that names no template.

    Raises:
        UserError: it is neither null, `tokenizer`, a file, nor the name of a template in this package.
    """
    if name not in (None, OF_TOKENIZER):
        _text(settings.text("task.chat_template", name))


def set_template(tokenizer: PreTrainedTokenizerBase, name: str | None) -> None:
    """Give the tokenizer the chat template that a task names; edits the tokenizer.

    A template that calls `strftime_now` gets a fixed date, since a run's prompts must not depend on the day.

    Raises:
        UserError: the task names the tokenizer's template and the tokenizer has none, or the template does not render
            the beginning of a conversation as the beginning of its text.
    """
    if name is None:
        return
    if name != OF_TOKENIZER:
        tokenizer.chat_template = _text(name)
    elif tokenizer.chat_template is None:
        raise UserError(
            "task.chat_template=tokenizer needs a model whose tokenizer has a chat template, but this tokenizer has "
            f"none; name a file instead, or a template in this package ({', '.join(_shipped())})"
        )
    templates = tokenizer.chat_template
    tokenizer.chat_template = (
        {name: _with_fixed_date(text) for name, text in templates.items()}
        if isinstance(templates, dict)
        else _with_fixed_date(templates)
    )
    with within(f"task.chat_template={name}"):
        frame_of(tokenizer, is_chat=True)


def template_fingerprint(name: str | None) -> str:
    """Return the text of a template file; empty for null and for the tokenizer's template."""
    return "" if name in (None, OF_TOKENIZER) else _text(name)


def _with_fixed_date(template: str) -> str:
    """Return a template that defines `strftime_now` itself if it uses it; jinja prefers a macro to a global."""
    if "strftime_now" not in template or template.startswith(_FIXED_DATE):
        return template
    return _FIXED_DATE + template


def _text(name: str) -> str:
    try:
        return _file(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"task.chat_template must be a file of UTF-8 text, got {name!r}") from error


def _file(name: str) -> Path:
    if name in _shipped():
        return SHIPPED / f"{name}.jinja"
    file = Path(os.path.expanduser(name))
    if not file.is_file():
        raise UserError(
            f"task.chat_template must be null, {OF_TOKENIZER}, a file, or a template in this package, got {name!r}; "
            f"{choices(name, _shipped())}"
        )
    return file


def _shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.jinja"))

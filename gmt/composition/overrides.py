"""Single overrides in Hydra's grammar."""

import re
import shlex
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException

from gmt.config_files import groups
from gmt.errors import UserError


def parse_override(parser: OverridesParser, text: str) -> Override:
    """Parse one override.

    Raises:
        UserError: Hydra's grammar does not accept the text, or drops blanks at an end of the value; the message shows
            how to write it.
    """
    key, equals, value = text.partition("=")
    if not equals and not text.startswith("~"):
        raise UserError(f"an override must be KEY=VALUE or ~KEY, got {text!r}")
    try:
        (parsed,) = parser.parse_overrides([text])
        has_all_blanks = (
            parsed.value_type != ValueType.ELEMENT or not isinstance(parsed.value(), str) or value == value.strip(" \t")
        )
    except (HydraException, ValueError, RecursionError) as error:
        quoted = f"{key}={as_text(value)}"
        try:
            parser.parse_overrides([quoted])
        except HydraException:
            raise UserError(f"an override must be KEY=VALUE with a setting's name as KEY, got {text!r}") from error
        raise UserError(f"Hydra can't read {text!r}; write the text as {shlex.quote(quoted)}") from error
    if not has_all_blanks:
        quoted = f"{key}={as_text(value)}"
        raise UserError(f"Hydra drops blanks at the ends of {text!r}; write the text as {shlex.quote(quoted)}")
    _refuse_other_than_name(parsed)
    return parsed


def _refuse_other_than_name(parsed: Override) -> None:
    """Refuse a config group whose value is no name of a file; Hydra would merge the files of a list into one run."""
    group = parsed.key_or_group
    if parsed.is_delete() or parsed.is_sweep_override() or group not in _groups():
        return
    if isinstance(parsed.value(), str | dict):  # a mapping sets values of the group's config
        return
    value, got = parsed.value(), parsed.get_value_element_as_str()
    if isinstance(value, list) and len(value) > 1:
        listed = f"{parsed.get_key_element()}={got.strip('[]')}"
        raise UserError(f"{group} must name one file, got {got}; {listed} does a run for each (`gmt run` needs -m)")
    raise UserError(f"{group} must name one of its files, got {got}; leave it out, or write ~{group} to remove it")


@lru_cache(maxsize=1)
def _groups() -> frozenset[str]:
    return frozenset(groups())


def as_text(value: str) -> str:
    """Quote a text in Hydra's override grammar, so that Hydra reads exactly this text."""
    escaped = re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", value)  # no interpolation
    return QuotedString(text=escaped, quote=Quote.double).with_quotes()

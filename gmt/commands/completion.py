"""Completes words of a command line: commands and flags by argcomplete, overrides and run ids from files.

Imports neither Hydra nor torch: a list of candidates takes a tenth of a second.
"""

from __future__ import annotations

import json
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from argcomplete.completers import DirectoriesCompleter, FilesCompleter
from argcomplete.finders import CompletionFinder
from argcomplete.shell_integration import shellcode

from gmt import config_files
from gmt.commands.explain.setting import KINDS, LAUNCHER, kind_of, launcher_meanings, meanings, setting_in
from gmt.docstrings import first_sentence
from gmt.errors import UserError
from gmt.starts.start import KINDS as KINDS_OF_FILES
from gmt.terminal import printable

_ON_CLUSTERS = ("submit", "jobs", "logs", "stop")
_LAUNCHERS = {"basic": "one run after the other in this process", "ray_tune": "side by side, on Ray"}
_MOST_DESCRIBED = 100  # runs whose records are read for a description
Words = dict[str, str]  # a candidate, and what it means


def script(shell: str) -> str:
    """Return the lines by which a shell completes the words of `gmt`."""
    return str(shellcode(["gmt"], shell=shell))


def complete(parser: ArgumentParser, commands: Mapping[str, ArgumentParser]) -> None:
    """Answer a shell that asks for candidates, and exit."""
    for name, command in commands.items():
        for action in command._actions:
            if action.nargs != 0:  # flags take no word
                action.completer = _completer(name, action, commands)  # type: ignore[attr-defined]
    _Finder()(parser, always_complete_options=False)


class _Finder(CompletionFinder):
    """Completes overrides behind an option too, where argparse takes no more of them."""

    def collect_completions(
        self, active_parsers: list[ArgumentParser], parsed_args: Namespace, cword_prefix: str
    ) -> list[str]:
        parser: Any = active_parsers[-1]
        if not parser.active_actions:
            parser.active_actions = [action for action in parser._actions if action.dest == "overrides"]
        return list(super().collect_completions(active_parsers, parsed_args, cword_prefix))


def _completer(command: str, action: Action, commands: Mapping[str, ArgumentParser]) -> Any:
    """Return what completes an argument of a command."""
    if action.choices is not None:
        return lambda **_: list(action.choices or ())
    words: dict[str, Callable[[str, Namespace], Words]] = {
        "overrides": lambda prefix, given: overrides(prefix, *_context(given), command=command),
        "run": lambda prefix, given: _runs_or_study(prefix, given, command),
        "other": lambda prefix, given: runs(prefix, _context(given)[0]),
        "topic": lambda prefix, given: topics(prefix, commands, given.config_dir),
        "kind": lambda prefix, given: dict.fromkeys(KINDS_OF_FILES, ""),
    }
    if action.dest in words:
        return lambda prefix, parsed_args, **_: _words_of(words[action.dest], prefix, parsed_args)
    if action.dest in ("config_dir", "merged", "peft"):
        return DirectoriesCompleter()
    return FilesCompleter() if action.dest == "delta" else lambda **_: []


def _words_of(words: Callable[[str, Namespace], Words], prefix: str, given: Namespace) -> Words:
    """Return candidates; none where a class or a file of the user's own is broken."""
    try:
        return words(prefix, given)
    except (UserError, OSError, ValueError):
        return {}


def _context(given: Namespace) -> tuple[Sequence[str], str | None]:
    """Return the overrides and the config folder so far."""
    return getattr(given, "overrides", None) or [], getattr(given, "config_dir", None)


def overrides(prefix: str, given: Sequence[str], own: str | None, *, command: str) -> Words:
    """Return the overrides that begin so: keys with `=`, or behind it names of files, or a setting's choices.

    Args:
        prefix: the beginning of the word.
        given: the overrides before it.
        own: a config folder of the user's own, or None.
        command: the name of the command.
    """
    key, is_value, value = prefix.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    key = key.removeprefix(sign)
    if is_value:
        before, comma, _ = value.rpartition(",")
        found = _values(key, given, own)
        return {f"{sign}{key}={before}{comma}{word}": about for word, about in found.items()}
    keys = _groups(command, own) if "." not in key else {}
    if not any(word.startswith(key) for word in keys):
        keys = dict(_settings(key, given, own, are_new=sign.startswith("+")))
    end = "" if sign == "~" else "="
    found = {f"{sign}{word}{end}": about for word, about in keys.items()}
    return found | (runs(prefix, given) if command == "sync" else {})


def _groups(command: str, own: str | None) -> Words:
    """Return the groups that a command takes, and the settings that belong to none."""
    chosen = {group: choice.about for group, choice in config_files.chosen().items()}
    if command in _ON_CLUSTERS:
        chosen["cluster"] = "where the sweep runs"
    if command == "run":
        del chosen["study"], chosen["diagnostic"]
    others = {group: "" for group in config_files.groups(own) if group not in chosen and command == "check"}
    return chosen | others | {key: about for key, about in config_files.single_settings().items() if about}


def _settings(key: str, given: Sequence[str], own: str | None, *, are_new: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the settings of the groups that a key may begin with, and their meanings.

    Args:
        key: the beginning of a key.
        given: the overrides so far.
        own: a config folder of the user's own, or None.
        are_new: whether they are those that the config does not name, which + adds.
    """
    for group in [*config_files.own_settings(), *config_files.chosen(), "cluster"]:
        if not group.startswith(key.partition(".")[0]):
            continue
        values = _of_group(group, given, own)
        kind = kind_of(group, values) if values else None
        about = {} if kind is None else meanings(kind)
        for name in [name for name in about if name not in values] if are_new else _leaves(values):
            yield f"{group}.{name}", first_sentence(about.get(name, ""))
    if LAUNCHER.startswith(key[: len(LAUNCHER)]):
        yield from ((f"{LAUNCHER}.{name}", first_sentence(text)) for name, text in launcher_meanings().items())
        yield "hydra/launcher", "the launcher of a sweep's runs"


def _of_group(group: str, given: Sequence[str], own: str | None) -> Mapping[str, Any]:
    """Return the settings of the file that the overrides choose of a group."""
    part = config_files.own_settings().get(group)
    if isinstance(part, Mapping):
        return part
    chosen = {text.partition("=")[0]: text.partition("=")[2] for text in given}
    default = config_files.chosen().get(group)
    name = chosen.get(group, "null" if default is None else default.name).partition(",")[0]
    return config_files.values(group, name, own)


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the keys of all values that are no mappings, by their paths; a key with a dot has no path of its own."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        elif key != "_target_" and "." not in key:
            yield f"{above}{key}"


def _values(key: str, given: Sequence[str], own: str | None) -> Words:
    """Return the names of a group's files, or the choices of a setting."""
    if key == "hydra/launcher":
        return dict(_LAUNCHERS)
    if key in config_files.groups(own):
        names = config_files.names(key, own)
        return {name: first_sentence(config_files.about(key, name, own)) for name in names}
    group, _, name = key.rpartition(".")
    values = _of_group(group, given, own)
    return dict.fromkeys(setting_in(group, values, name).choices, "") if values else {}


def runs(prefix: str, given: Sequence[str]) -> Words:
    """Return the ids of the runs below record.root that begin so, with method, task, seed and state."""
    roots = [text.removeprefix("record.root=") for text in given if text.startswith("record.root=")]
    root = Path(roots[-1] if roots else config_files.own_settings()["record"]["root"]).expanduser() / "runs"
    found = sorted(root.glob(f"{prefix}*")) if prefix.isalnum() or not prefix else []
    return {folder.name: _described(folder) if len(found) <= _MOST_DESCRIBED else "" for folder in found}


def _described(folder: Path) -> str:
    try:
        science = json.loads((folder / "config.json").read_text(encoding="utf-8"))["science"]
        state = json.loads((folder / "status.json").read_text(encoding="utf-8"))["state"]
        return printable(f"{science['method']['name']} on {science['task']['name']}, seed={science['seed']}, {state}")
    except (OSError, ValueError, KeyError, TypeError):  # a record that was cut or is being written
        return ""


def _runs_or_study(prefix: str, given: Namespace, command: str) -> Words:
    """Return run ids, and for `gmt show` the studies that may stand in their place."""
    context = _context(given)
    named = overrides(prefix, *context, command=command) if command == "show" else {}
    return runs(prefix, context[0]) | {word: about for word, about in named.items() if word.startswith("study=")}


def topics(prefix: str, commands: Mapping[str, ArgumentParser], own: str | None) -> Words:
    """Return the topics of `gmt help` that begin so."""
    group, is_choice, _ = prefix.partition("=")
    if is_choice:
        return {f"{group}={name}": about for name, about in _values(group, [], own).items()}
    words = [*commands, *config_files.groups(own), *config_files.own_settings(), *KINDS, LAUNCHER]
    found = dict.fromkeys(words, "")
    return found | dict(_settings(prefix, [], own)) if "." in prefix else found

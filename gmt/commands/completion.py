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
from gmt.commands.explain.setting import (
    LAUNCHER,
    SETTINGS_CLASSES,
    launcher_meanings,
    meanings,
    setting_in,
    settings_class_of,
)
from gmt.docstrings import first_sentence
from gmt.errors import UserError
from gmt.starts.start import KINDS
from gmt.terminal import printable

_CLUSTER_COMMANDS = ("submit", "jobs", "logs", "stop")
_LAUNCHERS = {"basic": "one run after the other in this process", "ray_tune": "side by side, on Ray"}
_MAX_DESCRIBED = 100  # with more runs, their records are not read for a description
Words = dict[str, str]  # the candidates, each with its meaning


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
    """Return the completer of an argument of a command."""
    if action.choices is not None:
        return lambda **_: list(action.choices or ())
    words: dict[str, Callable[[str, Namespace], Words]] = {
        "overrides": lambda prefix, given: overrides(prefix, *_context(given), command=command),
        "run": lambda prefix, given: _runs_or_study(prefix, given, command),
        "other": lambda prefix, given: runs(prefix, _context(given)[0]),
        "topic": lambda prefix, given: topics(prefix, commands, given.config_dir),
        "kind": lambda prefix, given: dict.fromkeys(KINDS, ""),
    }
    if action.dest in words:
        return lambda prefix, parsed_args, **_: _candidates(words[action.dest], prefix, parsed_args)
    if action.dest in ("config_dir", "merged", "peft"):
        return DirectoriesCompleter()
    return FilesCompleter() if action.dest == "delta" else lambda **_: []


def _candidates(words: Callable[[str, Namespace], Words], prefix: str, given: Namespace) -> Words:
    """Return the candidates; none if a class or a file of the user is broken."""
    try:
        return words(prefix, given)
    except (UserError, OSError, ValueError):
        return {}


def _context(given: Namespace) -> tuple[Sequence[str], str | None]:
    """Return the overrides and the config folder that the command line already has."""
    return getattr(given, "overrides", None) or [], getattr(given, "config_dir", None)


def overrides(prefix: str, given: Sequence[str], config_dir: str | None, *, command: str) -> Words:
    """Return the overrides that begin with a prefix.

    A prefix without `=` gets keys; one with `=` gets the names of a group's files, or the choices of a setting.

    Args:
        prefix: the beginning of the word to complete.
        given: the overrides before the word.
        config_dir: a config folder of the user's own, or None.
        command: the name of the command.
    """
    key, is_value, value = prefix.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    key = key.removeprefix(sign)
    if is_value:
        before, comma, _ = value.rpartition(",")
        values = _values(key, given, config_dir)
        return {f"{sign}{key}={before}{comma}{word}": about for word, about in values.items()}
    keys = _groups(command, config_dir) if "." not in key else {}
    if not any(word.startswith(key) for word in keys):
        keys = dict(_settings(key, given, config_dir, are_new=sign.startswith("+")))
    end = "" if sign == "~" else "="
    words = {f"{sign}{word}{end}": about for word, about in keys.items()}
    return words | (runs(prefix, given) if command == "sync" else {})


def _groups(command: str, config_dir: str | None) -> Words:
    """Return the groups that a command takes, and the settings that belong to no group."""
    chosen = {group: choice.about for group, choice in config_files.chosen().items()}
    if command in _CLUSTER_COMMANDS:
        chosen["cluster"] = "where the sweep runs"
    if command == "run":
        del chosen["study"], chosen["diagnostic"]
    others = {group: "" for group in config_files.groups(config_dir) if group not in chosen and command == "check"}
    return chosen | others | {key: about for key, about in config_files.single_settings().items() if about}


def _settings(
    key: str, given: Sequence[str], config_dir: str | None, *, are_new: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield each setting that may complete a key, and its meaning.

    Args:
        key: the beginning of a key.
        given: the overrides so far.
        config_dir: a config folder of the user's own, or None.
        are_new: whether to yield the settings that the config does not name and `+` adds, instead of those in it.
    """
    for group in [*config_files.own_settings(), *config_files.chosen(), "cluster"]:
        if not group.startswith(key.partition(".")[0]):
            continue
        values = _group_values(group, given, config_dir)
        settings_class = settings_class_of(group, values) if values else None
        about = {} if settings_class is None else meanings(settings_class)
        for name in [name for name in about if name not in values] if are_new else _leaves(values):
            yield f"{group}.{name}", first_sentence(about.get(name, ""))
    if LAUNCHER.startswith(key[: len(LAUNCHER)]):
        yield from ((f"{LAUNCHER}.{name}", first_sentence(text)) for name, text in launcher_meanings().items())
        yield "hydra/launcher", "the launcher of a sweep's runs"


def _group_values(group: str, given: Sequence[str], config_dir: str | None) -> Mapping[str, Any]:
    """Return the values in the file of a group that the overrides choose, or in the group's default file."""
    part = config_files.own_settings().get(group)
    if isinstance(part, Mapping):
        return part
    chosen = {text.partition("=")[0]: text.partition("=")[2] for text in given}
    default = config_files.chosen().get(group)
    name = chosen.get(group, "null" if default is None else default.name).partition(",")[0]
    return config_files.values(group, name, config_dir)


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted path of each value that is not a mapping; a key that holds a dot can't be part of a path."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        elif key != "_target_" and "." not in key:
            yield f"{above}{key}"


def _values(key: str, given: Sequence[str], config_dir: str | None) -> Words:
    """Return the names of a group's files, or the choices of a setting."""
    if key == "hydra/launcher":
        return dict(_LAUNCHERS)
    if key in config_files.groups(config_dir):
        names = config_files.names(key, config_dir)
        return {name: first_sentence(config_files.about(key, name, config_dir)) for name in names}
    group, _, name = key.rpartition(".")
    values = _group_values(group, given, config_dir)
    return dict.fromkeys(setting_in(group, values, name).choices, "") if values else {}


def runs(prefix: str, given: Sequence[str]) -> Words:
    """Return the run ids below record.root that begin with a prefix, each with its method, task, seed and state."""
    roots = [text.removeprefix("record.root=") for text in given if text.startswith("record.root=")]
    root = Path(roots[-1] if roots else config_files.own_settings()["record"]["root"]).expanduser() / "runs"
    folders = sorted(root.glob(f"{prefix}*")) if prefix.isalnum() or not prefix else []
    return {folder.name: _described(folder) if len(folders) <= _MAX_DESCRIBED else "" for folder in folders}


def _described(folder: Path) -> str:
    try:
        science = json.loads((folder / "config.json").read_text(encoding="utf-8"))["science"]
        state = json.loads((folder / "status.json").read_text(encoding="utf-8"))["state"]
        return printable(f"{science['method']['name']} on {science['task']['name']}, seed={science['seed']}, {state}")
    except (OSError, ValueError, KeyError, TypeError):  # a record that was cut or is being written
        return ""


def _runs_or_study(prefix: str, given: Namespace, command: str) -> Words:
    """Return run ids; for `gmt show`, which takes a study in place of a run, also `study=NAME`."""
    context = _context(given)
    named = overrides(prefix, *context, command=command) if command == "show" else {}
    return runs(prefix, context[0]) | {word: about for word, about in named.items() if word.startswith("study=")}


def topics(prefix: str, commands: Mapping[str, ArgumentParser], config_dir: str | None) -> Words:
    """Return the topics of `gmt help` that may complete a prefix."""
    group, is_choice, _ = prefix.partition("=")
    if is_choice:
        return {f"{group}={name}": about for name, about in _values(group, [], config_dir).items()}
    words = [*commands, *config_files.groups(config_dir), *config_files.own_settings(), *SETTINGS_CLASSES, LAUNCHER]
    candidates = dict.fromkeys(words, "")
    return candidates | dict(_settings(prefix, [], config_dir)) if "." in prefix else candidates

"""`gmt help TOPIC`: explains a config group, one of its choices, or a setting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gmt import config_files
from gmt.commands.explain.layout import entry, paragraph, title_of, titled
from gmt.commands.explain.run_page import composed
from gmt.commands.explain.setting import (
    LAUNCHER,
    SETTINGS_CLASSES,
    Setting,
    launcher_meanings,
    settings_class_of,
    settings_in,
    typed,
)
from gmt.docstrings import first_sentence
from gmt.errors import UserError, choices
from gmt.terminal import say


def explain(topic: str, config_dir: str | None, *, commands: Iterable[str]) -> None:
    """Print the help on a topic.

    Args:
        topic: `method`, `method=lora`, `method.rank` or `seed`.
        config_dir: a config folder of the user's own, or None.
        commands: the names of the commands, for the error about an unknown topic.

    Raises:
        UserError: there is no such topic.
    """
    group, is_choice, name = topic.partition("=")
    parent, _, key = topic.rpartition(".")
    own = config_files.own_settings()
    known = [*config_files.groups(config_dir), *own, *SETTINGS_CLASSES, LAUNCHER]
    if is_choice:
        say(_choice(group, name, config_dir))
    elif topic in config_files.groups(config_dir):
        say(_group(topic, config_dir))
    elif topic in own or topic in SETTINGS_CLASSES or topic == LAUNCHER:
        say(_config_part(topic))
    elif parent in known:
        say(_setting(parent, key, config_dir))
    else:
        raise UserError(f"there is no help on {topic!r}; {choices(topic, {*commands, *known})}")


def _choice(group: str, name: str, config_dir: str | None) -> str:
    """Return the help on a group's file: the comment at its top, and its settings."""
    names = config_files.names(group, config_dir)
    if not names:
        raise UserError(f"there is no config group {group!r}; {choices(group, config_files.groups(config_dir))}")
    if name not in names:
        raise UserError(f"there is no {group} {name!r}; {choices(name, names)}")
    about = paragraph(config_files.about(group, name, config_dir), 2)
    settings = _settings_of_choice(group, name, config_dir)
    return "\n\n".join([titled(f"{group}={name}", [about]), *map(_full_entry, settings)])


def _settings_of_choice(group: str, name: str, config_dir: str | None) -> list[Setting]:
    """Return the settings of a file as the composed config has them; as the file has them if no run has the group."""
    if group not in config_files.chosen():
        return settings_in(group, config_files.values(group, name, config_dir))
    return settings_in(group, composed([f"{group}={name}"], config_dir)[group])


def _group(group: str, config_dir: str | None) -> str:
    """Return an entry for each file of a group, and the settings that all of them share."""
    chosen = config_files.chosen().get(group)
    title = f"{group}: {chosen.about}" if chosen is not None and chosen.about else f"{group}:"
    names = config_files.names(group, config_dir)
    entries = [entry(f"{group}={name}", first_sentence(config_files.about(group, name, config_dir))) for name in names]
    parts = [titled(title, entries)]
    if group in SETTINGS_CLASSES:
        parts.append(_config_part(group))
    elif group != "suite":
        parts.append(f"`gmt help {group}=NAME` shows the settings of one of them.")
    return "\n\n".join(parts)


def _config_part(topic: str) -> str:
    """Return the help on a setting of conf/config.yaml, on a group of settings in it, or on the launcher."""
    own = config_files.own_settings()
    if topic == LAUNCHER:
        return "\n\n".join(entry(f"{topic}.{name}", text) for name, text in launcher_meanings().items())
    if topic not in SETTINGS_CLASSES:
        return entry(f"{topic}={typed(own[topic])}", config_files.single_settings()[topic])
    values = own.get(topic, {})
    settings = settings_in(topic, values)
    return "\n\n".join([title_of(topic, settings_class_of(topic, values)), *map(_full_entry, settings)])


def _setting(parent: str, key: str, config_dir: str | None) -> str:
    """Return the meaning of a setting in each file of its group that has it."""
    if parent == LAUNCHER:
        texts = launcher_meanings()
        if key not in texts:
            raise UserError(f"{parent} has no setting {key!r}; {choices(key, texts)}")
        return entry(f"{parent}.{key}", texts[key])
    own = config_files.own_settings()
    by_name = {name: config_files.values(parent, name, config_dir) for name in config_files.names(parent, config_dir)}
    by_name = by_name if parent not in SETTINGS_CLASSES or parent == "train" else {"": own.get(parent, {})}
    by_meaning: dict[str, list[tuple[str, Setting]]] = {}
    keys: set[str] = set()
    for name, values in by_name.items():
        for setting in settings_in(parent, values):
            keys.add(setting.key.rpartition(".")[2])
            if setting.key == f"{parent}.{key}":
                by_meaning.setdefault(setting.about, []).append((name, setting))
    if not by_meaning:
        raise UserError(f"{parent} has no setting {key!r}; {choices(key, keys)}")
    return "\n\n".join(_meaning(parent, named_settings) for named_settings in by_meaning.values())


def _full_entry(setting: Setting) -> str:
    return entry(setting.assignment, setting.in_full)


def _meaning(parent: str, named_settings: Sequence[tuple[str, Setting]]) -> str:
    """Return an entry for a setting that has one meaning in several files, with its value in each file."""
    _, setting = named_settings[0]
    values = ", ".join(f"{parent}={name} ({in_file.value})" for name, in_file in named_settings if name)
    text = entry(setting.key if len(named_settings) > 1 else setting.assignment, setting.in_full)
    return f"{text}\n{paragraph(f'In {values}.', 34)}" if values else text

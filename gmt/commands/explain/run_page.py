"""Makes the help of `gmt run`: the groups with their choices, then each setting of the composed config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from gmt import config_files
from gmt.commands.explain.layout import entry, group_settings, paragraph, titled, word_list
from gmt.commands.explain.setting import typed
from gmt.composition import Composer, hydra_on, user_errors

_EXAMPLES = """\
Examples:
  gmt run method=gmt method.mask_ratio=0.9    one training
  gmt run -m method=sft,gmt seed=1,2,3        six trainings, two at a time on two cores
  gmt run method=lora --help                  this page for another method
  gmt help method                             what each method is
  gmt help method.mask_ratio                  all about one setting, in every method that has it
"""


def run_page(overrides: Sequence[str], config_dir: str | None, *, resolve: bool) -> str:
    """Return the page without the flags: the groups, then the settings that the overrides compose.

    Args:
        overrides: the user's overrides.
        config_dir: a config folder of the user's own, or None.
        resolve: whether to replace interpolations by their values.

    Raises:
        UserError: an override is wrong.
    """
    config = composed(overrides, config_dir, resolve=resolve)
    return "\n\n".join([_groups(overrides, config_dir), _settings(config), _EXAMPLES])


def composed(overrides: Sequence[str], config_dir: str | None, *, resolve: bool = False) -> dict[str, Any]:
    """Return the config that overrides compose, as plain values; a missing value is `???`."""
    with hydra_on(config_dir):
        config = Composer().compose(overrides)
        with user_errors():
            plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _groups(overrides: Sequence[str], config_dir: str | None) -> str:
    """Return an entry for each group: the chosen file, the purpose of the group, and all its files."""
    chosen = {group: (choice.name, choice.about) for group, choice in config_files.chosen().items()}
    for key, _, value in (text.lstrip("+").partition("=") for text in overrides):
        if key.lstrip("~") in chosen:
            chosen[key.lstrip("~")] = ("null" if key.startswith("~") else value, chosen[key.lstrip("~")][1])
    lines = [paragraph("GROUP=NAME chooses a file of conf/GROUP; `gmt help GROUP` says what each name stands for.", 2)]
    for group, (name, about) in chosen.items():
        lines += [entry(f"{group}={name}", about), word_list(config_files.names(group, config_dir))]
    for group in config_files.groups(config_dir):
        if group not in chosen:  # e.g. cluster, or a group whose files are parts of a task
            names = word_list(config_files.names(group, config_dir))
            lines.append(f"  {group}" + names[len(group) + 2 :])
    return titled("Groups:", lines)


def _settings(config: Mapping[str, Any]) -> str:
    about = config_files.single_settings()
    single = [
        entry(f"{key}={typed(config[key])}", text)
        for key, text in about.items()
        if not isinstance(config.get(key), Mapping)
    ]
    introduction = paragraph(
        "KEY=VALUE changes a setting, +KEY=VALUE one that its file does not name; `gmt help KEY` says all about it.", 2
    )
    parts = [
        group_settings(group, values)
        for group, values in config.items()
        if isinstance(values, Mapping) and group != "hydra"
    ]
    return "\n\n".join([titled("Settings:", [introduction, *single]), *parts])

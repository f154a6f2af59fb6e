"""Declares the commands that explain commands, groups and settings, and complete them in a shell."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from functools import partial

from gmt.commands.parsers.overview import overview
from gmt.commands.parsers.parser import Parser, Section, take_config_dir

_TOPICS = """\
gmt help plan                a command; the same as gmt plan --help
gmt help method              a config group: a line for each of its files
gmt help method=lora         one file of a group: its source, and all its settings
gmt help method.mask_ratio   a setting, in each file of the group that has it
gmt help record              the settings of a part of the config, e.g. resources, hydra.launcher
"""
_INSTALL = """\
bash:  gmt completion bash > ~/.gmt_completion; echo 'source ~/.gmt_completion' >> ~/.bashrc
zsh:   gmt completion zsh > ~/.gmt_completion; echo 'source ~/.gmt_completion' >> ~/.zshrc
       (in .zshrc behind `autoload -U compinit; compinit`)
"""


def add_commands(section: Section) -> None:
    """Add the commands."""
    commands: Mapping[str, Parser] = section.commands.choices
    explain = section.add(
        "help",
        partial(_explain, commands),
        takes="[TOPIC]",
        summary="explains a command, a config group, a choice, a setting",
        about="Explains a topic, by the docstrings of the settings' classes and the comments of conf/.",
        epilog=_TOPICS,
    )
    explain.add_argument("topic", nargs="?", metavar="TOPIC", help="see below; by default: a line for each command")
    take_config_dir(explain)
    completion = section.add(
        "completion",
        _completion,
        takes="SHELL",
        summary="the script by which bash or zsh completes gmt's words",
        about="Prints the script by which a shell completes commands, flags, groups and their files, settings and "
        "their choices, and ids of runs. The script asks the `gmt` on the shell's PATH.",
        epilog=_INSTALL,
    )
    completion.add_argument("shell", choices=["bash", "zsh"], metavar="SHELL", help="bash or zsh")


def _explain(commands: Mapping[str, Parser], options: Namespace) -> None:
    topic: str | None = options.topic
    if topic is None:
        print(overview(commands), end="")
    elif topic in commands:
        given = commands[topic].parse_args(["--help"])  # most parsers print their help here, and exit
        given.command, given.config_dir = topic, options.config_dir
        given.do(given)
    else:
        from gmt.commands.help import explain

        explain(topic, options.config_dir, commands=commands)


def _completion(options: Namespace) -> None:
    from gmt.commands.completion import script

    print(script(options.shell))

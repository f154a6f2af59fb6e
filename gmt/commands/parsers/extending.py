"""The commands for plug-ins and studies of the user's own."""

from __future__ import annotations

from argparse import Namespace

from gmt.checks.groups import GROUPS
from gmt.commands.parsers.environment import take_out_variables
from gmt.commands.parsers.parser import Section, take_config, take_config_dir
from gmt.starts.start import KINDS


def add_commands(section: Section) -> None:
    """Add the commands."""
    new = section.add(
        "new",
        _new,
        takes="KIND NAME",
        summary="the first files of a method, a task, ... of your own",
        about="Writes the few lines to start from (a class where one is needed, its yaml, its test) into the current "
        "folder or that of --config-dir, and says what comes next. The files pass `gmt check` as they are; no file is "
        "overwritten. At the root of a checkout of this repository they go beside the repository's own. "
        f"KIND is one of {', '.join(KINDS)}.",
    )
    new.add_argument("kind", metavar="KIND", help="method, task, ...")
    about = "its name, in configs and as a module: small letters, digits and _"
    new.add_argument("name", metavar="NAME", help=about)
    take_config_dir(new)
    check = section.add(
        "check",
        _check,
        takes="GROUP=NAME",
        summary="tries the laws that every method, model and task keeps",
        about="Tries on a few steps of a small model what every plug-in must do, and prints a line for each law: it "
        "composes and builds, planning imports no torch, its run id is stable; it trains, saves, and goes on after "
        "kill -9 to the same bits; evaluations during training and smaller micro-batches change nothing; bf16, DPO and "
        f"two workers work, or are refused in a sentence. Name what to check as GROUP=NAME ({', '.join(GROUPS)}), with "
        "--config-dir for one of your own; other settings are overrides. All runs are on the CPU. Exit code 1 where a "
        "law is broken.",
    )
    take_config(check)


def _new(options: Namespace) -> None:
    from gmt.commands.new import new

    new(options.kind, options.name, options.config_dir)


def _check(options: Namespace) -> None:
    take_out_variables()
    from gmt.commands.check import print_checks

    print_checks(options.overrides, options.config_dir)

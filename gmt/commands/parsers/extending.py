"""Declares the commands for plug-ins and studies of the user's own: new and check."""

from __future__ import annotations

from argparse import Namespace

from gmt.checks.groups import GROUPS
from gmt.commands.parsers.environment import remove_and_name_variables
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
        "folder or that of --config-dir, and prints the commands that come next. The files pass `gmt check` as they "
        "are; no file is overwritten. At the root of a checkout of this repository they go beside the repository's "
        "own files. "
        f"KIND is one of {', '.join(KINDS)}.",
    )
    new.add_argument("kind", metavar="KIND", help="method, task, ...")
    about = "the name in configs and of the module: small letters, digits and _"
    new.add_argument("name", metavar="NAME", help=about)
    take_config_dir(new)
    check = section.add(
        "check",
        _check,
        takes="GROUP=NAME",
        summary="tries the laws that every method, model and task keeps",
        about="Tests a method, a task, ... on a few steps of a small model, and prints a line for each law: it "
        "composes and builds, planning imports no torch, its run id is stable; it trains, saves, and reaches the same "
        "bits after kill -9; evaluations during training and smaller micro-batches change nothing; bf16, DPO and two "
        f"workers work, or are refused in a sentence. GROUP is one of {', '.join(GROUPS)}; for one of your own, "
        "--config-dir names its folder; further overrides change its settings. All runs are on the CPU. The exit code "
        "is 1 if a law is broken.",
    )
    take_config(check, "method=gmt method.mask_ratio=0.9")


def _new(options: Namespace) -> None:
    from gmt.commands.new import new

    new(options.kind, options.name, options.config_dir)


def _check(options: Namespace) -> None:
    remove_and_name_variables()
    from gmt.commands.check import print_checks

    print_checks(options.overrides, options.config_dir)

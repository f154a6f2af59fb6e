"""Declares the commands that plan and start runs; `run` and `sweep` take the flags of a Hydra app."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import Any

from gmt.commands.parsers.environment import remove_and_name_variables
from gmt.commands.parsers.parser import Parser, Section, take_config


def add_commands(section: Section) -> None:
    """Add the commands."""
    run = section.add(
        "run",
        _hydra_app,
        takes="",
        summary="one training with its evaluation",
        about="Trains and evaluates one model, writes its run record, and tracks it in MLflow.",
        add_help=False,  # gmt's own --help shows the config that the overrides compose
    )
    sweep = section.add(
        "sweep",
        _hydra_app,
        takes="study=NAME",
        summary="every run of a study that is not done yet",
        about="Does every run of a study that is not done yet, side by side on this machine or a cluster.",
        add_help=False,
    )
    for parser, takes_either, example in ((run, True, "seed=2"), (sweep, False, "study=quickstart")):
        take_config(parser, example)
        _take_flags_of_hydra(parser, takes_either=takes_either)
        parser.set_defaults(parser=parser)
    plan = section.add(
        "plan",
        _plan,
        takes="study=NAME",
        summary="a study's runs, their states and what is left to do",
        about="Prints the runs of a study, their states, and the time and memory that the rest needs. Starts nothing.",
    )
    take_config(plan)
    plan.add_argument("--runs", action="store_true", help="print a line for each run even if there are more than 200")


def _take_flags_of_hydra(parser: Parser, *, takes_either: bool) -> None:
    """Let a command take Hydra's flags; a test compares them with those of Hydra's own parser.

    Args:
        parser: the command's parser.
        takes_either: whether the command takes --run and --multirun; otherwise the help hides them.
    """

    def flag(*names: str, about: str, **settings: Any) -> None:
        parser.add_argument(*names, help=about, **(settings or {"action": "store_true"}))

    flag("--help", "-h", about="show this page, with the values that the overrides compose")
    flag("--multirun", "-m", about="do several runs: KEY=A,B lists values" if takes_either else argparse.SUPPRESS)
    flag("--run", "-r", about="do one run; the default" if takes_either else argparse.SUPPRESS)
    flag("--cfg", "-c", about="show the config and start nothing", choices=["job", "hydra", "all"])
    flag("--resolve", about="with --cfg or --help: show what each ${...} stands for")
    flag("--package", "-p", about="with --cfg job: show this part of the config", metavar="KEY")
    parts = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    flag(
        "--info",
        "-i",
        about=f"show how Hydra comes to the config; PART is one of {', '.join(parts)}",
        const="all",
        nargs="?",
        choices=parts,
        metavar="PART",
    )
    flag("--hydra-help", about="show Hydra's own help")
    flag("--version", about="show Hydra's version")
    # gmt.commands.hydra_app refuses the flags below, and says why.
    flag("--shell-completion", "-sc", about=argparse.SUPPRESS)
    flag("--config-path", "-cp", about=argparse.SUPPRESS, default=None)
    flag("--config-name", "-cn", about=argparse.SUPPRESS, default=None)
    flag("--experimental-rerun", about=argparse.SUPPRESS, default=None)


def _hydra_app(options: Namespace) -> None:
    remove_and_name_variables()
    from gmt.commands.hydra_app import hydra_app

    hydra_app(f"gmt {options.command}", options)


def _plan(options: Namespace) -> None:
    from gmt.commands.plan import plan

    plan(options.overrides, options.config_dir, every_run=options.runs)

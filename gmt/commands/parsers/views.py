"""Declares the commands of MLflow's store: ui and sync."""

from __future__ import annotations

from argparse import Namespace

from gmt.commands.parsers.parser import Section, take_config


def add_commands(section: Section) -> None:
    """Add the commands."""
    ui = section.add(
        "ui",
        _ui,
        takes="[study=NAME]",
        summary="the MLflow dashboard, opened at the study",
        about="Serves the MLflow dashboard of the project's store, and prints a link that logs your browser in; nobody "
        "else on this machine can open the dashboard. With study=NAME the link leads to that study. "
        "docs/dashboard.md says how to serve the dashboard to others.",
    )
    take_config(ui)
    ui.add_argument("--port", type=int, metavar="PORT", help="default: 5000, or the next free one")
    ui.add_argument("--browser", action="store_true", help="open a browser at the page")
    sync = section.add(
        "sync",
        _sync,
        takes="study=NAME|RUN ...",
        summary="brings MLflow up to date with the run records",
        about="Writes to MLflow the values of the run records that MLflow lacks, e.g. after an outage of its server; "
        "if its store was lost, all values. Takes study=NAME or the ids of single runs.",
    )
    take_config(sync)


def _ui(options: Namespace) -> None:
    from gmt.commands.ui import serve

    serve(options.overrides, options.config_dir, options.port, browser=options.browser)


def _sync(options: Namespace) -> None:
    from gmt.commands.sync import sync

    sync(options.overrides, options.config_dir)

"""Composes the user's config, shortens it, and tries the laws of the groups that the user names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gmt.checks.groups import GROUPS
from gmt.checks.measuring import laws_of_diagnostic
from gmt.checks.merging import MERGE, laws_of_merge, with_parents
from gmt.checks.planning import BUILDS, DIAGNOSTIC, laws_of_planning, shortened
from gmt.checks.short_runs import ShortRuns
from gmt.checks.study import laws_of_study
from gmt.checks.training import laws_of_training
from gmt.checks.verdict import Verdict
from gmt.composition import Composer, as_text, hydra_on, with_values
from gmt.errors import UserError, choices

# The task if the user names none; its examples are generated in an instant.
_TASK = ("task=long_words", "task.train.long_words.num_examples=64", "task.target.long_words.num_examples=8")


def check(overrides: Sequence[str], config_dir: str | None, folder: Path) -> Iterator[Verdict]:
    """Yield a verdict on each law as it is tried.

    Args:
        overrides: the user's overrides; those of GROUPS name the plug-ins or the study to check.
        config_dir: the user's config folder, or None.
        folder: an empty folder for the records of the runs.

    Raises:
        UserError: no group is named, or the config does not compose.
    """
    with hydra_on(config_dir):
        composer = Composer()
        keys = [override.get_key_element() for override in composer.parse(list(overrides))]
        groups = [group for group in GROUPS if group in keys]
        if not groups:
            raise UserError(f"gmt check needs a config to check as GROUP=NAME; {choices(next(iter(keys), ''), GROUPS)}")
        if "study" in groups:
            with_root = [*overrides, f"record.root={as_text(str(folder))}"]
            yield from laws_of_study(composer, composer.compose_plain(with_root), with_root, folder)
            return
        config = composer.compose_plain([*(() if "task" in groups else _TASK), *overrides])
    config = with_values(config, {"record.root": str(folder)})
    if MERGE in groups:
        config = with_parents(config)
    for verdict in laws_of_planning(config, groups):
        yield verdict
        if verdict.law == BUILDS and verdict.state == "broken":
            return
    runs = ShortRuns(shortened(config), folder)
    if DIAGNOSTIC in groups:
        yield from laws_of_diagnostic(config[DIAGNOSTIC], runs)
    elif MERGE in groups:
        yield from laws_of_merge(runs)
    else:
        yield from laws_of_training(runs)

"""`gmt sweep` and `gmt run -m`: turn Hydra's multirun into a planned sweep."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gmt.composition import Composer, extra_config_dir, to_plain
from gmt.credentials import without_secrets
from gmt.errors import RunFailed, UserError
from gmt.runs.build import settings_of
from gmt.runs.failures import OF_PARENT
from gmt.runs.foreign_code import foreign_code
from gmt.runs.gpus import gpus_here
from gmt.runs.parents import failure_of, not_done
from gmt.studies.frozen import STOP, job_of
from gmt.studies.guard import SweepSettings, confirm
from gmt.studies.make_plan import make_plan
from gmt.studies.opened import axes_of, study_of_multirun
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.progress import progress
from gmt.studies.sweep import RunLauncher, run_sweep
from gmt.studies.tuning_words import resampled_in_words, tuned_in_words
from gmt.terminal import say
from gmt.tracking.settings import TrackingSettings

_BUSY_S = 1.0
_SHORT_ID = 8


def multirun(
    master: DictConfig,
    arguments: Sequence[str],
    launch: RunLauncher,
    conclude: Callable[[Plan, TrackingSettings], None],
) -> None:
    """Plan the runs of a multirun and do those that are not done.

    Args:
        master: the config without the swept settings, with the study if there is one.
        arguments: the user's overrides.
        launch: does the runs on machines.
        conclude: reports the result of the study; called if this sweep did some of its runs.

    Raises:
        UserError: the plan or a setting is wrong; nothing was started.
        RunFailed: some runs failed; the others are done.
    """
    config = to_plain(master)
    composer = Composer()
    study, axes = study_of_multirun(config, axes_of(composer, arguments))
    plan = make_plan(composer, study, axes)
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    limit = settings_of("sweep", SweepSettings, config["sweep"])
    for sentence in foreign_code(planned.run.config for planned in plan.runs):
        say(f"warning: {sentence}")
    confirm(plan, limit, input if sys.stdin.isatty() else None, num_gpus=_num_gpus(master))
    display, remedy = progress(), _sync_command(plan, arguments, is_study=config.get("study") is not None)
    failure = None
    try:
        has_begun = run_sweep(plan, tracking, launch, display, say=say, remedy=remedy)
        while plan.later or study.looks:
            before = plan
            plan = make_plan(composer, study, axes)  # the composer keeps its templates, so that edits have no effect
            if not before.later and len(plan.runs) == len(before.runs):
                break  # the look decided everything, or was the last
            _say_what_tuning_chose(before, plan)
            has_begun |= run_sweep(plan, tracking, launch, display, say=say, remedy=remedy, is_under_way=True)
    except RunFailed as error:
        failure = error
    finally:
        display.close()
    if failure is not None or has_begun:
        conclude(plan, tracking)
    elif config.get("study") is not None:
        say(f"`gmt show study={plan.study.name}` shows the means")
    if failure is not None:
        raise failure


def _say_what_tuning_chose(before: Plan, plan: Plan) -> None:
    """Print a line on each choice whose value is known now but was not before."""
    known = {tuned.label for tuned in before.tuned if tuned.best is not None}
    if chosen := [tuned for tuned in plan.tuned if tuned.best is not None and tuned.label not in known]:
        from gmt.studies.tuning_noise import noise_of  # numpy

        resamplings = [noise_of(tuned) for tuned in chosen]
        for tuned, resampling in zip(chosen, resamplings, strict=True):
            say(f"tuned {tuned_in_words(tuned, resampling)}")
        for sentence in resampled_in_words(resamplings):
            say(sentence)


def _num_gpus(master: DictConfig) -> int:
    """Return the number of GPUs for the runs; a cluster that the sweep joins is assumed to have at least one."""
    joined = OmegaConf.select(master, "hydra.launcher.address") is not None
    return max(gpus_here(), 1) if joined else gpus_here()


def by_overrides(launch: Callable[[Sequence[Sequence[str]]], object]) -> RunLauncher:
    """Return a RunLauncher for a launcher of Hydra jobs: each job reads its run from the frozen plan."""

    def launch_runs(todo: Sequence[PlannedRun], folder: Path) -> None:
        if todo[0].run.config.get("search") is not None:
            raise UserError("search needs hydra/launcher=ray_tune: no other launcher can stop a run early")
        remaining = list(todo)
        while remaining and not (folder / STOP).exists():
            remaining = _without_orphans(remaining)
            ready = [p for p in remaining if p.record.state() != "running" and not not_done(p.run)]
            if ready:
                launch([[job_of(folder, planned)] for planned in ready])
            remaining = [p for p in remaining if p not in ready and p.record.state() != "done"]
            if remaining and not ready:  # another driver does these
                time.sleep(_BUSY_S)

    return launch_runs


def _without_orphans(remaining: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Record as failed each merge with a parent that has ended and is not done; return the other runs."""
    ids = {planned.run.id for planned in remaining}
    others = []
    for planned in remaining:
        missing = (parent for parent in not_done(planned.run) if parent.id not in ids and parent.state() != "running")
        if (missing_parent := next(missing, None)) is None:
            others.append(planned)
        else:
            planned.record.create(planned.run.science, planned.run.config)
            planned.record.note_failure("failed", OF_PARENT, failure_of(planned.run, missing_parent))
            ids.discard(planned.run.id)
    return others


def _sync_command(plan: Plan, arguments: Sequence[str], *, is_study: bool) -> str:
    """Return the command that later writes this sweep's records to MLflow, without the secrets that the user typed."""
    if is_study:
        words = [*arguments]
    else:
        where = [text for text in arguments if text.startswith(("tracking", "record"))]
        words = [*(planned.run.id[:_SHORT_ID] for planned in plan.runs), *where]
    if (folder := extra_config_dir()) is not None:
        words += ["--config-dir", folder]
    return f"gmt sync {shlex.join(without_secrets(words))}"

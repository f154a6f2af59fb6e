"""`gmt sweep`, and `gmt run -m`: from Hydra's multirun to a planned sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from gmt.commands.terminal import say
from gmt.composition import Composer, to_plain
from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.studies.grid import StudySettings
from gmt.studies.plan import axes_of, make_plan
from gmt.studies.sweep import Launch, run_sweep
from gmt.tracking.settings import TrackingSettings


def multirun(master: DictConfig, arguments: Sequence[str], launch: Launch) -> None:
    """Plans and carries out a multirun.

    Args:
        master: the config without what is swept over; its study, or none, says what to run.
        arguments: the user's overrides.
        launch: Hydra's launcher.

    Raises:
        UserError: something is wrong; nothing was started.
        RunFailed: some runs failed; the others are done.
    """
    config = to_plain(master)
    composer = Composer()
    plan = make_plan(composer, study_of(config, required=False), axes_of(composer, arguments))
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    run_sweep(plan, tracking, launch, say=say)


def study_of(config: Mapping[str, Any], *, required: bool) -> StudySettings:
    """The study that a config names; a multirun without one is a study of its listed values.

    Raises:
        UserError: there is none and one is required, or it is wrong.
    """
    values = config.get("study")
    if values is not None:
        return settings_of("study", StudySettings, values)
    if required:
        raise UserError("this command needs study=NAME; `gmt run --help` lists the studies")
    return StudySettings(name="multirun", question="gmt run -m", shared={}, arms={"run": {}})

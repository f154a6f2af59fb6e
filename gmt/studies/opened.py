"""Plans the study that a user's overrides name; overrides with lists of values are axes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import settings_of
from gmt.studies.grid import StudySettings
from gmt.studies.left_out_questions import without_wrong_questions
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan

_WORD = re.compile(r"\w+")


def planned(
    overrides: Sequence[str], config_dir: str | None, *, leave_out: bool = False
) -> tuple[Plan, Mapping[str, Any]]:
    """Plan a study outside a Hydra app.

    Args:
        overrides: the user's overrides; those of `hydra` do not affect the plan and are ignored.
        config_dir: the user's config folder, or None.
        leave_out: whether primary questions that are wrong for the study are left out (`Plan.left_out`) instead of
            refused, for commands that read finished runs.

    Returns:
        The plan, and the config with the study but without the swept settings.

    Raises:
        UserError: the study or a run in it is wrong.
    """
    with hydra_on(config_dir):
        composer = Composer()
        ours = [text for text in overrides if not text.startswith(("hydra.", "hydra/"))]
        single = [text for text, o in zip(ours, composer.parse(ours), strict=True) if not o.is_sweep_override()]
        config = composer.compose_plain(single)
        values, left_out = config, list[str]()
        if leave_out and isinstance(config.get("study"), Mapping):
            study, left_out = without_wrong_questions(config["study"])
            values = {**config, "study": study}
        plan = make_plan(composer, study_of(values), axes_of(composer, ours), leave_out=leave_out)
        return replace(plan, left_out=[*left_out, *plan.left_out]), config


def study_of(config: Mapping[str, Any]) -> StudySettings:
    """Return the study of a config.

    Raises:
        UserError: the config has no study, or the study is wrong.
    """
    if config.get("study") is None:
        raise UserError("this command needs study=NAME; `gmt help study` lists the studies")
    return settings_of("study", StudySettings, config["study"])


def study_of_multirun(
    config: Mapping[str, Any], axes: Mapping[str, Sequence[str]]
) -> tuple[StudySettings, Mapping[str, Sequence[str]]]:
    """Return the study of a config, or the study that the listed values form, and the axes of that study.

    Args:
        config: the config.
        axes: the typed settings, each with its values. Without a study, each typed method is an arm.

    Raises:
        UserError: the study is wrong.
    """
    if config.get("study") is not None:
        return study_of(config), axes
    arms: dict[str, dict[str, str]] = {"run": {}}
    methods = axes.get("method", ())
    if methods and len(set(methods)) == len(methods) and all(map(_WORD.fullmatch, methods)):
        arms = {name: {"method": name} for name in methods}
        axes = {key: values for key, values in axes.items() if key != "method"}
    return StudySettings(name="multirun", question="gmt run -m", shared={}, arms=arms), axes


def axes_of(composer: Composer, overrides: Iterable[str]) -> dict[str, list[str]]:
    """Return the user's overrides as axes, without those of the study itself and of Hydra.

    Raises:
        UserError: an override can't be parsed, or sweeps over an interval instead of listed values.
    """
    axes: dict[str, list[str]] = {}
    for override in composer.parse(list(overrides)):
        key: str = override.get_key_element()
        if key == "study" and override.is_sweep_override():
            raise UserError(f"a sweep must name one study, got {override.input_line}; sweep them one after the other")
        if key == "study" or key.lstrip("+").startswith(("study.", "hydra.", "hydra/")):
            continue
        if not override.is_sweep_override():
            axes[key] = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            axes[key] = _listed(override)
        else:
            raise UserError(f"{key} must list the values to sweep over, got {override.input_line}")
    return axes


def _listed(override: Override) -> list[str]:
    """Return the values that an override sweeps over.

    Raises:
        UserError: the override lists no values.
    """
    try:
        values = list(override.sweep_string_iterator())
    except (ValueError, ArithmeticError, HydraException) as error:  # range(1,2,0)
        raise UserError(f"{override.input_line} lists no values: {error}") from error
    if not values:
        raise UserError(f"{override.input_line} lists no values")
    return values

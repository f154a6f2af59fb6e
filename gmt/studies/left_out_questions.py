"""Leaves out wrong primary questions, for commands that read finished runs; `gmt plan` and `gmt sweep` refuse them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gmt.errors import UserError
from gmt.studies.grid import StudySettings, questions_of


def without_wrong_questions(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return a study's settings without the primary questions whose own settings are wrong, and a sentence on each.

    Args:
        values: the study's settings from its config.
    """
    primary, margin = values.get("primary"), values.get("margin", StudySettings.margin)
    if not isinstance(primary, Mapping):
        wrong = _faults(primary, margin)
        return (_with(values, {}), [_left_out("the primary questions are", wrong)]) if wrong else (values, [])
    right: dict[str, Any] = {}
    sentences = []
    for name, question in primary.items():
        if wrong := _faults(right | {name: question}, margin):
            sentences.append(_left_out(f"primary question {name} is", wrong))
        else:
            right[name] = question
    return _with(values, right) if sentences else values, sentences


def without_unanswerable(study: StudySettings, faults: Mapping[str, Sequence[str]]) -> tuple[StudySettings, list[str]]:
    """Return a study without the primary questions that have faults, and a sentence on each.

    Args:
        study: the study.
        faults: from gmt.studies.primary_faults.faults_by_question.
    """
    if not faults:
        return study, []
    right = {name: question for name, question in (study.primary or {}).items() if name not in faults}
    sentences = [_left_out(f"primary question {name} is", sentences) for name, sentences in faults.items()]
    return replace(study, primary=right, looks=study.looks if right else ()), sentences


def _faults(primary: Any, margin: float) -> Sequence[str]:
    try:
        questions_of(primary, margin)
    except UserError as error:
        return error.sentences
    return ()


def _with(values: Mapping[str, Any], primary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with `primary` as their questions, and without looks if there is no question."""
    return {**values, "primary": primary} | ({} if primary else {"looks": []})


def _left_out(questions: str, faults: Iterable[str]) -> str:
    return f"Not answered: {questions} declared in a way that does not fit this study: {'; '.join(faults)}."

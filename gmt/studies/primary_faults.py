"""Faults of a study's primary questions, found when the study is planned."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gmt.axis import seed_of
from gmt.errors import choices
from gmt.studies.grid import Point, StudySettings, choice_of
from gmt.verdicts.pairs import Choice, names_arm, pairs_of
from gmt.verdicts.question import EACH_OTHER, EVERY_ARM, FEWEST, Question

Runs = Sequence[tuple[Point, Mapping[str, Any]]]


def faults_of_primary(study: StudySettings, runs: Runs, typed: Collection[str]) -> list[str]:
    """Return a sentence for each fault of a study's primary questions.

    Arms, values of the axis and seeds must be those of the study. Settings that the user typed may leave a question
    without values or seeds, or split its arms. That is no fault, and the report says that the question is not tested.

    Args:
        study: the study, with its questions.
        runs: the point and the resolved config of each compared run.
        typed: the settings that the user typed values for.
    """
    return [fault for faults in faults_by_question(study, runs, typed).values() for fault in faults]


def faults_by_question(study: StudySettings, runs: Runs, typed: Collection[str]) -> dict[str, list[str]]:
    """Return the sentences of `faults_of_primary` by question; questions without faults are left out."""
    seeds = seeds_of_choices(study, runs)
    by_name = {question.name: _faults(study, question, seeds, typed) for question in study.questions}
    return {name: faults for name, faults in by_name.items() if faults}


def seeds_of_choices(study: StudySettings, runs: Runs) -> dict[Choice, set[int | None]]:
    """Return the seeds of each choice, over all tasks."""
    seeds: dict[Choice, set[int | None]] = {}
    for point, config in runs:
        seeds.setdefault(choice_of(point, config, study.along), set()).add(seed_of(config))
    return seeds


def _faults(
    study: StudySettings, question: Question, seeds: Mapping[Choice, set[int | None]], typed: Collection[str]
) -> list[str]:
    where, arms = f"study.primary.{question.name}", dict.fromkeys(choice.arm for choice in seeds)
    named = [] if question.arms == EVERY_ARM else question.arms
    is_split = _is_split_by([*arms, *named, question.against], typed)

    def is_known(name: str) -> bool:
        return name.partition(" ")[0] in study.arms if is_split else any(names_arm(name, arm) for arm in arms)

    faults = [
        f"{where}.arms must name arms of the study, got {name!r}; {choices(name, study.arms)}"
        for name in named
        if not is_known(name)
    ]
    if question.against != EACH_OTHER:
        others = [arm for arm in arms if names_arm(question.against, arm)]
        if not is_known(question.against):
            faults.append(
                f"{where}.against must be an arm of the study or {EACH_OTHER}, got {question.against!r}; "
                f"{choices(question.against, study.arms)}"
            )
        elif len(others) > 1 and not is_split:
            faults.append(f"{where}.against must name one arm, got {question.against!r}, which is {', '.join(others)}")
        if question.against in named:
            faults.append(f"{where}.arms must leave out study.primary.{question.name}.against, got {question.against}")
    if not faults and not is_split and study.along.setting not in typed:
        faults += _faults_of_values(study, question, list(seeds))
    if faults or is_split:
        return faults
    pairs = pairs_of(question, list(seeds))
    if not pairs and study.along.setting not in typed:
        return [f"{where} must compare at least two choices of the study, got none"]
    fewest = min((len(seeds[a] & seeds[b]) for a, b in pairs), default=FEWEST)
    if fewest < FEWEST and "seed" not in typed:
        return [f"{where} needs at least {FEWEST} seeds for each comparison, got {fewest}"]
    return []


def _is_split_by(names: Iterable[str], typed: Iterable[str]) -> bool:
    """Return whether a typed setting is in the name of an arm, e.g. `sft learning_rate=0.1`."""
    settings = {pair.partition("=")[0] for name in names for pair in name.split()[1:]}
    return not settings.isdisjoint(key.rpartition(".")[2] for key in typed)


def _faults_of_values(study: StudySettings, question: Question, known: Sequence[Choice]) -> list[str]:
    compared = [c for c in known if question.arms == EVERY_ARM or any(names_arm(name, c.arm) for name in question.arms)]
    values = sorted({choice.value for choice in compared if choice.value is not None})
    listed = ", ".join(f"{value:g}" for value in values)
    return [
        f"study.primary.{question.name}.values must be values of {study.along.setting} that its arms have, got "
        f"{value:g}; choices: {listed}"
        for value in question.values or ()
        if value not in values
    ]

"""Some answers of the base and of a few finished runs to the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from gmt.records.answers import Answers, answers_of
from gmt_analysis.choices import choice_name

if TYPE_CHECKING:
    from gmt_analysis.results import Results

BASE = "base"
_BY_PART = {"target": 3, "source": 1}  # questions of each suite
_LONGEST = 300  # letters of a question or an answer


@dataclass(frozen=True, kw_only=True)
class SampleAnswer:
    """An answer of one model.

    Args:
        text: the answer, shortened if it is long.
        score: the score of the answer; None if a benchmark gives it none.
    """

    text: str
    score: float | None


@dataclass(frozen=True, kw_only=True)
class SampleQuestion:
    """A question with the answers of several models.

    Args:
        suite: the part of the task and the suite, e.g. `source addition`.
        prompt: the question, shortened if it is long.
        answers: the answers, in the order of the models.
    """

    suite: str
    prompt: str
    answers: Sequence[SampleAnswer]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Questions of one task.

    Args:
        task: the task.
        models: `base`, and the names of the runs.
        questions: the questions; those whose scores differ between the models come first.
    """

    task: str
    models: Sequence[str]
    questions: Sequence[SampleQuestion]


def sample_answers(results: Results) -> list[Sample]:
    """Return some answers on each task: of the base, of the baseline, and of the choices with the highest target score
    and with the least forgetting.

    A task whose records hold no answers has no sample.
    """
    records = {planned.run.id: planned.record for planned in results.done}
    samples = []
    for task in dict.fromkeys(results.summary["task"]):
        names = _shown(results.summary[results.summary["task"] == task], results.plan.study.baseline)
        runs = [_first_run(results.table, str(task), name) for name in names]
        answers = [answers_of(records[runs[0]], "before"), *(answers_of(records[run]) for run in runs)]
        if all(answers):
            questions = list(_questions(answers))
            samples.append(Sample(task=str(task), models=[BASE, *map(_in_words, names)], questions=questions))
    return samples


def _shown(summary: pd.DataFrame, baseline: str) -> list[tuple[str, float | None]]:
    """Return up to three choices, arm and value."""
    of_baseline = summary[summary["arm"] == baseline].head(1)
    others = summary[summary["arm"] != baseline]
    highest_target = others.sort_values("target_after", ascending=False).head(1)
    least_forgetting = others.sort_values("forgetting").head(1)
    rows = pd.concat([of_baseline, highest_target, least_forgetting])
    pairs: list[tuple[str, float | None]] = [
        (str(arm), _number(value)) for arm, value in zip(rows["arm"], rows["axis"], strict=True)
    ]
    return list(dict.fromkeys(pairs))


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _in_words(choice: tuple[str, float | None]) -> str:
    return choice_name(choice[0], float("nan") if choice[1] is None else choice[1])


def _first_run(table: pd.DataFrame, task: str, choice: tuple[str, float | None]) -> str:
    """Return the id of the finished run of a choice with the smallest seed."""
    arm, value = choice
    at_value = table["axis"].isna() if value is None else table["axis"] == value
    runs = table[(table["state"] == "done") & (table["task"] == task) & (table["arm"] == arm) & at_value.fillna(False)]
    return str(runs.sort_values("seed")["run_id"].iloc[0])


def _questions(answers: Sequence[Answers]) -> Iterator[SampleQuestion]:
    """Yield a few questions of each suite, those whose scores differ first."""
    common = [key for key in answers[0] if all(key in of_model for of_model in answers)]

    def has_equal_scores(key: tuple[str, str, str, int]) -> bool:
        return len({of_model[key]["score"] for of_model in answers}) == 1

    num_left = {(part, suite): _BY_PART.get(part, 1) for part, suite, *_ in common}
    for key in sorted(common, key=has_equal_scores):  # sorting is stable
        part, suite, prompt, _ = key
        if num_left[part, suite]:
            num_left[part, suite] -= 1
            rows = [of_model[key] for of_model in answers]
            shown = [SampleAnswer(text=_cut(str(row["answer"])), score=_score(row["score"])) for row in rows]
            yield SampleQuestion(suite=f"{part} {suite}", prompt=_cut(prompt), answers=shown)


def _score(score: object) -> float | None:
    """Return a score as a number; None if a benchmark gives the answer none."""
    return float(score) if isinstance(score, int | float) else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"

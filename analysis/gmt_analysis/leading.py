"""The first lines of a report: the answers to the primary questions, or sentences on means and tests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd

from gmt_analysis.choices import choice_name
from gmt_analysis.findings import Findings, as_table

if TYPE_CHECKING:
    from gmt_analysis.results import Results


def leading_sentences(results: Results) -> list[str]:
    """Return the sentences that answer a study: its verdicts, or two where it declares no primary question.

    Sentences on primary questions that are left out come first.
    """
    if results.verdicts:
        answers = [sentence for verdict in results.verdicts for sentence in (verdict.sentence, *verdict.notes)]
    else:
        answers = [best_in_words(results.summary, results.plan.study.baseline), counts_in_words(results)]
    return list(dict.fromkeys([*results.plan.left_out, *answers]))  # each verdict repeats the notes on the whole study


def best_in_words(summary: pd.DataFrame, baseline: str) -> str:
    """Return a sentence on the best mean target score of each task, beside the baseline's.

    Args:
        summary: from `summarise`.
        baseline: the arm that the others are compared with.
    """
    clauses = []
    for task, rows in summary[summary["target_after"].notna()].groupby("task", sort=False):
        best = rows.iloc[int(rows["target_after"].to_numpy(float).argmax())]
        of_baseline = rows[rows["arm"] == baseline]
        beside = (
            ""
            if of_baseline.empty or best["arm"] == baseline
            else f" ({baseline} {100 * of_baseline['target_after'].max():.1f} %)"
        )
        clauses.append(
            f"{choice_name(best['arm'], best['axis'])} with {100 * best['target_after']:.1f} % on {task}{beside}"
        )
    return f"Highest mean target score: {'; '.join(clauses)}."


def counts_in_words(results: Results) -> str:
    """Return a sentence that counts the results of the exploratory tests against the baseline."""
    tested = [findings for findings in results.findings if len(findings.to_baseline)]
    if not tested:
        return f"No arm could be compared with the baseline, {results.findings[0].baseline}."
    counts = "; ".join(_counts(findings) for findings in tested)
    why = "No primary question can be answered" if results.plan.left_out else "The study declares no primary question"
    return f"Against {tested[0].baseline}, {counts}. {why}, so that all tests are exploratory."


def _counts(findings: Findings) -> str:
    counts = Counter(as_table(findings.to_baseline, findings.measure)["words"])
    clauses = ", ".join(f"{number} {words}" for words, number in counts.items())
    number = len(findings.to_baseline)
    return f"{findings.measure.name} of {number} choice{'' if number == 1 else 's'}: {clauses}"

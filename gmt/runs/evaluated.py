"""The scores and answers of a model in the evaluations of a run's task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmt.records.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The scores and answers of a model.

    Args:
        scores: scores by part and suite; `mean` is the mean of the part's scores that lie in [0, 1].
        metrics: all measured values under the names by which they are logged, e.g. `eval/target/sums_exact_match`.
        answers: one row for each question, with its part and suite.
    """

    scores: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, float]
    answers: Sequence[Mapping[str, Any]]

    def write_answers(self, record: RunRecord, when: str) -> None:
        """Write every answer into the record's answers_before.jsonl or answers_after.jsonl; `when` says which."""
        record.write_lines(f"answers_{when}.jsonl", self.answers)

"""The scores and answers of a model in the evaluations of a run's task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmt.records.record import RunRecord


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a model came to.

    Args:
        scores: by part and suite; `mean` is over those of a part that lie in [0, 1].
        metrics: the same under the names by which they are logged, e.g. `eval/target/sums_exact_match`.
        answers: one row for each question, with its part and suite.
    """

    scores: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, float]
    answers: Sequence[Mapping[str, Any]]

    def keep(self, record: RunRecord, when: str) -> None:
        """Writes every answer into the record."""
        record.write_lines(f"answers_{when}.jsonl", self.answers)

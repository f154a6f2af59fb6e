"""The result of a run: the layout of result.json, for everything that reads or writes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainFacts:
    """What a training did, over all its attempts; steps that a kill threw away are not in it.

    Args:
        num_steps: optimizer steps.
        num_tokens: without padding.
        density: mean fraction of entries that was kept; None for a method without a mask.
        forward_backward_s, mask_s, optimizer_s: mean seconds of a step's parts, without the cold steps.
        num_cold_steps: how many these are: the first few of each attempt; 0 in a training that has no others. None in
            records from before it was counted, which left none out.
        seconds: in optimizer steps altogether, without reading batches, checkpoints and evaluation.
        peak_memory_bytes: of the GPU if there is one, else of the process's resident set, in this attempt.
        optimizer_state_bytes: the optimizer's state at the end of the training, on the first worker, the largest of
            several phases. The supports of packed moments are in it. Memory that the method holds beside it is not: the
            mask of masked moments, a byte an entry, or SpIEL's base values and candidates. None in records from before
            it was counted.
        num_trained: entries that a step trains, the mean over the steps; None likewise.
        num_touched: entries that some step trained. Of masks that change from step to step, the entries that moved, by
            the sample of the mask's facts; of cautious, by such a sample, those that a step moved but for weight decay.
            None likewise.
    """

    num_steps: int
    num_tokens: int
    density: float | None
    forward_backward_s: float
    mask_s: float
    optimizer_s: float
    num_cold_steps: int | None = None
    seconds: float
    peak_memory_bytes: int
    optimizer_state_bytes: int | None = None
    num_trained: float | None = None
    num_touched: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a run.

    Args:
        before, after: the scores of the base and of the run's weights, by part (target, source) and suite; `mean` is
            over the suites of a part whose scores lie in [0, 1].
        metrics: by `before` and `after`, every number of the evaluation under the name by which it is logged.
        forgetting: the mean source score before, less the mean source score after.
        training: the facts of the training; None for a merge.
        micro_batch_size, accumulation_steps: of the training; other than the config's where memory was short; None for
            a merge.
        density_asked: the fraction of entries that the method was asked to keep at a step; None without a mask, and for
            a merge.
        moved_fraction: the fraction of the base's entries, tied weights counted once, that differ from the base's.
        delta_norm: the Euclidean norm of the difference between the weights and the base's; None in records from before
            it was measured, and for a model that lacks a weight of its base.
        relative_delta_norm: the same, divided by the norm of the base's weights; None likewise.
        num_parameters: the parameters of the model that was evaluated, tied ones counted once.
        num_trainable: the parameters that the optimizer was given; None in records from before they were counted.
        num_added: the parameters that the method added to the model's own; None likewise.
        num_train_examples: the examples of each epoch.
        num_dropped_examples: the examples that were longer than train.max_length.
        num_left_over_examples: the preferences that filled no optimizer step; None likewise.
        num_not_selected_examples: the examples that fit and that the selection did not choose; None without a
            selection.
        weights_sha256: a hash of the weights that were evaluated.
        seconds: the time that all attempts took; None where the end of one went unseen.
    """

    before: Scores
    after: Scores
    metrics: Mapping[str, Mapping[str, float]]
    forgetting: float
    training: TrainFacts | None
    micro_batch_size: int | None = None
    accumulation_steps: int | None = None
    density_asked: float | None
    moved_fraction: float
    delta_norm: float | None = None
    relative_delta_norm: float | None = None
    num_parameters: int
    num_trainable: int | None = None
    num_added: int | None = None
    num_train_examples: int
    num_dropped_examples: int
    num_left_over_examples: int | None = None
    num_not_selected_examples: int | None = None
    weights_sha256: str
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what result.json holds."""
        training = None if self.training is None else vars(self.training)
        return vars(self) | {"training": training, "train_seconds": None if training is None else training["seconds"]}

    @property
    def num_steps(self) -> int:
        """The step at which the result is logged: the last of the training, or 1 for a merge."""
        return 1 if self.training is None else self.training.num_steps

    @property
    def trained_fraction(self) -> float | None:
        """The entries that a step trains, in the mean, as a fraction of the parameters; None where they are unknown."""
        return self._fraction(None if self.training is None else self.training.num_trained)

    @property
    def touched_fraction(self) -> float | None:
        """The entries that some step trained, likewise."""
        return self._fraction(None if self.training is None else self.training.num_touched)

    def _fraction(self, number: float | None) -> float | None:
        return None if number is None else number / self.num_parameters

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Result:
        """Return the result in a parsed result.json; values that records of older versions lack are None.

        Raises:
            UserError: a value that every version wrote is missing, where `stored` knows its file
                (gmt.records.reading.Fields).
        """
        values = _values_of(cls, stored)
        training = values["training"]
        return cls(**values | {"training": training and TrainFacts(**_values_of(TrainFacts, training))})


def _values_of(kind: type[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field.name: stored[field.name] if field.default is dataclasses.MISSING else stored.get(field.name)
        for field in dataclasses.fields(kind)
    }

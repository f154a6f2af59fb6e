"""The result of a run, and the layout of result.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Scores = Mapping[str, Mapping[str, float]]
_EARLIER_NAMES = {"target_density": "density_asked"}  # in records of older versions


@dataclass(frozen=True, kw_only=True)
class TrainFacts:
    """Facts of a training over all its attempts, without the steps that were lost in a kill.

    Args:
        num_steps: the number of optimizer steps.
        num_tokens: the number of tokens read, without padding.
        density: the mean fraction of entries that a step updates; None for a method without a mask.
        forward_backward_s, mask_s, optimizer_s: mean seconds of a step's parts, without the cold steps.
        num_cold_steps: the number of cold steps, which are the first few of each attempt; 0 if all steps are among
            the first few; the means are then over all steps. None in records of older versions, whose means are over
            all steps.
        seconds: the time of all optimizer steps, without reading batches, checkpoints and evaluation.
        peak_memory_bytes: the peak memory of the GPU, or of the process's resident set on the CPU, in the last attempt.
        optimizer_state_bytes: the size of the optimizer's state at the end of the training, on the first worker; the
            largest of several phases. It includes the supports of packed moments, but not the memory that the method
            holds beside the optimizer: the mask of masked moments (a byte an entry), or SpIEL's base values and
            candidates. None in records of older versions.
        num_trained: the number of entries that a step trains, a mean over the steps. None in records of older versions.
        num_touched: the number of entries that some step trained. For masks that change from step to step it is
            estimated from the entries that moved in the mask's sample, and for cautious from a sample of the entries
            that moved by more than weight decay. None in records of older versions.
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
            the mean of the part's scores that lie in [0, 1].
        metrics: under `before` and `after`, every number of the evaluation under the name by which it is logged.
        forgetting: the mean source score before, minus the mean source score after.
        training: the facts of the training; None for a merge.
        micro_batch_size, accumulation_steps: the values that the training used, which differ from the config's if a
            GPU's memory was short; None for a merge.
        target_density: the fraction of entries that a step should update, by the method's settings; None without a
            mask, and for a merge.
        moved_fraction: the fraction of the base's entries that the run's weights differ in, tied weights counted once.
        delta_norm: the Euclidean norm of the difference between the weights and the base's; None in records of older
            versions, and for a model that lacks a weight of its base.
        relative_delta_norm: delta_norm divided by the norm of the base's weights; None where delta_norm is None.
        num_parameters: the number of parameters of the evaluated model, tied ones counted once.
        num_trainable: the number of parameters given to the optimizer; None in records of older versions.
        num_added: the number of parameters that the method added to the model; None in records of older versions.
        num_train_examples: the number of examples in each epoch.
        num_dropped_examples: the number of examples longer than train.max_length.
        num_left_over_examples: the number of preferences at the end that were left out, since they did not fill an
            optimizer step; None in records of older versions.
        num_not_selected_examples: the number of examples that fit and that the selection did not choose; None without a
            selection.
        weights_sha256: a hash of the evaluated weights.
        seconds: the time of all attempts; None if the end of an attempt is unknown.
    """

    before: Scores
    after: Scores
    metrics: Mapping[str, Mapping[str, float]]
    forgetting: float
    training: TrainFacts | None
    micro_batch_size: int | None = None
    accumulation_steps: int | None = None
    target_density: float | None
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
        """Return the content of result.json."""
        training = None if self.training is None else vars(self.training)
        return vars(self) | {"training": training, "train_seconds": None if training is None else training["seconds"]}

    @property
    def num_steps(self) -> int:
        """The step at which the result is logged: the last step of the training, or 1 for a merge."""
        return 1 if self.training is None else self.training.num_steps

    @property
    def trained_fraction(self) -> float | None:
        """The mean number of entries that a step trains, as a fraction of the parameters; None if unknown."""
        return self._fraction(None if self.training is None else self.training.num_trained)

    @property
    def touched_fraction(self) -> float | None:
        """The number of entries that some step trained, as a fraction of the parameters; None if unknown."""
        return self._fraction(None if self.training is None else self.training.num_touched)

    def _fraction(self, number: float | None) -> float | None:
        return None if number is None else number / self.num_parameters

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Result:
        """Return the result in a parsed result.json; values that records of older versions lack are None.

        Raises:
            UserError: a value that every version wrote is missing; only if `stored` is a gmt.records.reading.Fields.
        """
        values = _values_of(cls, stored)
        training = values["training"]
        return cls(**values | {"training": training and TrainFacts(**_values_of(TrainFacts, training))})


def _values_of(result_class: type[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for field in dataclasses.fields(result_class):
        earlier = _EARLIER_NAMES.get(field.name, "")
        name = earlier if earlier in stored and field.name not in stored else field.name
        values[field.name] = stored[name] if field.default is dataclasses.MISSING else stored.get(name)
    return values

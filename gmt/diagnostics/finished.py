"""The argument of a diagnostic: a finished run and its base, which load their parts on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt.methods.protocol import Method
from gmt.methods.source_prompts import Prompts
from gmt.models.protocol import Model
from gmt.records.result import Result
from gmt.tasks.protocol import Reader, Task
from gmt.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One run.

    Args:
        id: the run id.
        model, task, method, train, seed: the run's settings.
        workers: the number of processes that trained the run.
        device: the device to compute on, `cpu` or `cuda`.
        science: the settings that the run id hashes, by group.
        result: the run's result; None before the run is done.
        reader: returns the model's tokenizer and context.
        examples: returns the training examples as rows of tokens, in their order.
        prompts: returns the token ids of every prompt in the base's evaluation on a part of the task, `target` or
            `source`; empty if the record stores no answers.
        source: returns the prompts of the source suites, each a batch on the CPU, as a training gives them to a method
            that reads them.
        tuned: returns the trained weights on the CPU, by the names of the base's parameters, tied ones once; a mapping
            that reads each tensor on access. Raises UserError if the run stored no weights or if they have changed.
        on_progress: the diagnostic calls it from time to time, with the number of finished steps and of all steps.
    """

    id: str
    model: Model
    task: Task
    method: Method
    train: TrainSettings
    seed: int
    workers: int
    device: str
    science: Mapping[str, Any]
    result: Result | None
    reader: Callable[[], Reader]
    examples: Callable[[], Sequence[Mapping[str, Any]]]
    prompts: Callable[[str], Sequence[Sequence[int]]]
    source: Prompts
    tuned: Callable[[], Mapping[str, Tensor]]
    on_progress: Callable[[int, int], None] = lambda done, total: None

    def base(self) -> dict[str, Tensor]:
        """Return the base's parameters by name, tied ones once, on the CPU, in the dtype of their files; read-only."""
        return {name: parameter.detach() for name, parameter in self.model.base().named_parameters()}

    def base_model(self) -> PreTrainedModel:
        """Return a copy of the base on `device`, in eval mode and in the dtype of the training."""
        model = self.model.load_model()
        model.to(self.device)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
        return model.eval()  # type: ignore[no-untyped-call,no-any-return]

    def tuned_model(self) -> PreTrainedModel:
        """Return the trained model on `device`, in eval mode and in the dtype of the training."""
        import torch

        tuned, model = self.tuned(), self.base_model()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tuned[name])
        return model

    def is_same_but_seed(self, other: FinishedRun) -> bool:
        """Whether the other run differs in its seed alone."""
        return _without_seed(self.science) == _without_seed(other.science) and self.seed != other.seed

    def has_same_data(self, other: FinishedRun) -> bool:
        """Whether the other run has the same base, task and seed, and differs in how it is trained."""
        shared = ("model", "task", "fingerprints", "seed")
        return all(self.science[key] == other.science[key] for key in shared) and self.science != other.science


def _without_seed(science: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in science.items() if key != "seed"}

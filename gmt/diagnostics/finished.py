"""A finished run and its base, as a diagnostic is given them. Nothing is loaded before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt.methods.protocol import Method
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
        id: of the run.
        model, task, method, train, seed: its settings.
        workers: processes that trained it.
        device: `cpu` or `cuda`, where to compute.
        science: what the run id is made of, by group.
        result: what came out of it; None before it is done.
        reader: gives tokenizer and context of the model.
        examples: gives the training examples as rows of tokens, in their order.
        prompts: gives the token ids of every prompt of a part of the task, `target` or `source`, that the base was
            asked; empty if none was kept.
        tuned: gives the trained weights by the names of the base's parameters, on the CPU, tied ones once, each read
            when it is asked for. Raises UserError if the run kept none, or others.
        on_progress: to be called with the number of steps that are done and of all, as often as may be.
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
    tuned: Callable[[], Mapping[str, Tensor]]
    on_progress: Callable[[int, int], None] = lambda done, total: None

    def base(self) -> dict[str, Tensor]:
        """The base's parameters by name, tied ones once, on the CPU, in the dtype of their files; to be read only."""
        return {name: parameter.detach() for name, parameter in self.model.base().named_parameters()}

    def base_model(self) -> PreTrainedModel:
        """A copy of the base on `device`, in eval mode and in the dtype in which it was trained."""
        model = self.model.load_model()
        model.to(self.device)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
        return model.eval()  # type: ignore[no-untyped-call,no-any-return]

    def tuned_model(self) -> PreTrainedModel:
        """The trained model, likewise."""
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
        alike = ("model", "task", "fingerprints", "seed")
        return all(self.science[key] == other.science[key] for key in alike) and self.science != other.science


def _without_seed(science: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in science.items() if key != "seed"}

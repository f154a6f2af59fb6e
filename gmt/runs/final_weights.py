"""The weights that a run ends with, by training or by merging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gmt.records.result import TrainFacts
from gmt.training.delta import Delta
from gmt.training.reshaping import Sizes
from gmt.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class FinalWeights:
    """A model with the final weights of a run, before it is evaluated.

    Args:
        model: the model to evaluate, with all weights (no shards), on the run's device.
        delta: how far the weights have moved from the base's.
        sizes: numbers of trained and of added parameters.
        training: the facts of the training; None for a merge.
        settings: the run's train group, perhaps with smaller micro-batches; None for a merge.
        save: writes the weights that record.keep_weights selects into the run's folder.
    """

    model: PreTrainedModel
    delta: Delta
    sizes: Sizes
    training: TrainFacts | None
    settings: TrainSettings | None
    save: Callable[[Path], None]


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model into a run's folder as safetensors, with its tokenizer, as transformers loads it."""
    model.save_pretrained(folder / "weights")
    tokenizer.save_pretrained(folder / "weights")

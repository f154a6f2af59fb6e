"""The divergence of a model from its base on a batch's labelled tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


def logits_of(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Return a model's logits [batch, width, vocabulary] for the texts of a training's batch."""
    inputs = {key: batch[key] for key in _MODEL_INPUTS if batch.get(key) is not None}
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def divergence(of_base: Tensor, logits: Tensor, is_labelled: Tensor) -> Tensor:
    """Return the mean over labelled tokens of KL(base || model), in nats.

    Args:
        of_base, logits: of shape [batch, width, vocabulary].
        is_labelled: bool of shape [batch, width].
    """
    from torch.nn.functional import kl_div, log_softmax

    predicts = is_labelled[:, 1:]
    ours, theirs = (log_softmax(x[:, :-1][predicts].float(), dim=-1) for x in (logits, of_base))
    return kl_div(ours, theirs, log_target=True, reduction="sum") / predicts.sum().clamp(min=1)


def labelled(batch: Mapping[str, Any]) -> Tensor:
    """Return the tokens that are learnt: those with a label, or, of preferences, the answers'."""
    from gmt.tasks.tokens import IGNORED

    is_labelled: Tensor = batch["labels"] != IGNORED if "labels" in batch else batch["completion_mask"].bool()
    return is_labelled

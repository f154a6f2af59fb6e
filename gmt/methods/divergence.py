"""Computes the divergence of a model from its base on a batch's labelled tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


def logits_of(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Return a model's logits [batch, width, vocabulary] for the texts of a training batch."""
    inputs = {key: batch[key] for key in _MODEL_INPUTS if batch.get(key) is not None}
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def divergence(base_logits: Tensor, logits: Tensor, is_labelled: Tensor) -> Tensor:
    """Return the mean over labelled tokens of KL(base || model), in nats.

    Args:
        base_logits, logits: the logits of the base and of the model, shape [batch, width, vocabulary].
        is_labelled: whether a token is labelled, bool of shape [batch, width].
    """
    from torch.nn.functional import kl_div, log_softmax

    predicts = is_labelled[:, 1:]
    model_logs, base_logs = (log_softmax(x[:, :-1][predicts].float(), dim=-1) for x in (logits, base_logits))
    return kl_div(model_logs, base_logs, log_target=True, reduction="sum") / predicts.sum().clamp(min=1)


def labelled(batch: Mapping[str, Any]) -> Tensor:
    """Return which tokens are learnt, bool [batch, width]: those with a label; for preferences, those of answers."""
    from gmt.tasks.tokens import IGNORED

    is_labelled: Tensor = batch["labels"] != IGNORED if "labels" in batch else batch["completion_mask"].bool()
    return is_labelled

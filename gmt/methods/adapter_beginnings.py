"""What a LoRA may begin with, other than a random matrix beside zeros: parts of the weights, also by examples."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gmt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BY_WEIGHTS = ("pissa", "olora")
BY_EXAMPLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "eva": ("eva_config", ("rho", "tau", "use_label_mask", "whiten", "adjust_scaling_factors")),
    "corda": ("corda_config", ("corda_method", "use_float16_for_covariance")),
    "lora_ga": ("lora_ga_config", ("direction", "scale", "stable_gamma")),
}
"""Beginnings by examples: the part of LoraConfig that sets each, and which of its settings may be set."""
BEGINNINGS = ("gaussian", "orthogonal", *_BY_WEIGHTS, *BY_EXAMPLES)
_TIMES_RANK = {"lora_ga": 2}  # it takes a gradient's first 2r singular vectors
_BATCH_OF_EVA = 8  # rows: of a few short ones there are too few tokens for as many components

Batches = Callable[[int], Iterator[Mapping[str, Any]]]


def is_known(beginning: object) -> bool:
    """Return whether a LoRA can begin so; pissa_niter_N computes N rounds of a fast singular value decomposition."""
    return beginning in BEGINNINGS or (
        isinstance(beginning, str) and re.fullmatch(r"pissa_niter_[1-9]\d*", beginning) is not None
    )


def changes_base(beginning: object) -> bool:
    """Return whether the part that an adapter begins as is taken out of the base's weights."""
    return isinstance(beginning, str) and beginning.startswith((*_BY_WEIGHTS, "corda", "lora_ga"))


def largest_rank(beginning: str | None, side: int) -> int:
    """Return the largest rank of an adapter at a matrix with a smaller side of `side` entries."""
    return side // _TIMES_RANK.get(beginning or "", 1)


def adapted_by(model: PreTrainedModel, config: Any, batches: Batches) -> Any:
    """Put a LoRA into a model that begins with what examples say.

    Args:
        model: on the device that trains it; changed in place.
        config: a LoraConfig whose `init_lora_weights` is one of BY_EXAMPLES.
        batches: makes mini-batches of so many examples.

    Returns:
        The PeftModel around it.

    Raises:
        UserError: there are too few tokens in the examples.
    """
    import torch
    from peft import get_peft_model, initialize_lora_eva_weights
    from peft.tuners.lora.corda import preprocess_corda
    from peft.tuners.lora.loraga import preprocess_loraga
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    if config.init_lora_weights == "eva":
        several = list(batches(_BATCH_OF_EVA))
        _check_tokens(config, several)
        adapted: Any = get_peft_model(model, config)
        initialize_lora_eva_weights(
            adapted, several, gather_distributed_inputs=False, show_progress_bar=False
        )  # each worker has the same
        return adapted
    config = _maybe_include_all_linear_layers(config, model)

    def read() -> None:
        for batch in batches(1):  # one by one, without padding
            with torch.no_grad():
                model(**batch, use_cache=False)

    def differentiate() -> None:
        for batch in batches(1):
            model(**batch, use_cache=False).loss.backward()

    was_training = model.training
    if config.init_lora_weights == "corda":
        preprocess_corda(model, config, run_model=read)
    else:
        preprocess_loraga(model, config, train_step=differentiate)
    model.train(was_training)
    adapted = get_peft_model(model, config)
    for module in model.modules():
        vars(module).pop("eigens", None)  # CorDA's, as large as the weights
    return adapted


def _check_tokens(config: Any, batches: list[Mapping[str, Any]]) -> None:
    """Refuse what peft would read for ever: it passes over mini-batches with fewer tokens than it seeks components."""
    asked = max([config.r, *config.rank_pattern.values()])
    needed = math.ceil(asked * config.eva_config.rho)
    is_read = "labels" if config.eva_config.use_label_mask else "attention_mask"
    counts = [int(((b[is_read] != -100) if is_read == "labels" else b[is_read].bool()).sum()) for b in batches]
    if max(counts) < needed:
        raise UserError(
            f"method.rank * method.beginning_options.rho must be at most {max(counts)}, the tokens that are read of "
            f"{_BATCH_OF_EVA} examples, got {needed}; method.beginning_options.use_label_mask=false reads prompts too"
        )

"""Initialisations of a LoRA other than a random and a zero matrix: from the weights, or from training examples."""

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
"""Initialisations that are computed from examples: the field of LoraConfig, and the settings that users may set."""
BEGINNINGS = ("gaussian", "orthogonal", *_BY_WEIGHTS, *BY_EXAMPLES)
_TIMES_RANK = {"lora_ga": 2}  # LoRA-GA takes a gradient's first 2r singular vectors
_EVA_BATCH_SIZE = 8  # rows; a mini-batch needs at least as many tokens as EVA seeks components

Batches = Callable[[int], Iterator[Mapping[str, Any]]]


def is_known(beginning: object) -> bool:
    """Return whether a value names an initialisation; pissa_niter_N is PiSSA by a fast decomposition of N rounds."""
    return beginning in BEGINNINGS or (
        isinstance(beginning, str) and re.fullmatch(r"pissa_niter_[1-9]\d*", beginning) is not None
    )


def changes_base(beginning: object) -> bool:
    """Return whether an adapter is initialised by a part of the base's weights, which is subtracted from them."""
    return isinstance(beginning, str) and beginning.startswith((*_BY_WEIGHTS, "corda", "lora_ga"))


def largest_rank(beginning: str | None, side: int) -> int:
    """Return the largest rank of an adapter for a matrix whose smaller side has `side` entries."""
    return side // _TIMES_RANK.get(beginning or "", 1)


def adapt_by_examples(model: PreTrainedModel, config: Any, batches: Batches) -> Any:
    """Put a LoRA into a model whose initial values are computed from examples.

    Args:
        model: the model, on the device that trains it; changed in place.
        config: a LoraConfig whose `init_lora_weights` is one of BY_EXAMPLES.
        batches: returns the examples in mini-batches of the given size.

    Returns:
        The PeftModel that wraps the model.

    Raises:
        UserError: the examples have too few tokens.
    """
    import torch
    from peft import get_peft_model, initialize_lora_eva_weights
    from peft.tuners.lora.corda import preprocess_corda
    from peft.tuners.lora.loraga import preprocess_loraga
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    if config.init_lora_weights == "eva":
        eva_batches = list(batches(_EVA_BATCH_SIZE))
        _check_tokens(config, eva_batches)
        adapted: Any = get_peft_model(model, config)
        # every worker has the same examples, so they need not be gathered
        initialize_lora_eva_weights(adapted, eva_batches, gather_distributed_inputs=False, show_progress_bar=False)
        return adapted
    config = _maybe_include_all_linear_layers(config, model)

    def run_model() -> None:
        for batch in batches(1):  # one by one, without padding
            with torch.no_grad():
                model(**batch, use_cache=False)

    def train_step() -> None:
        for batch in batches(1):
            model(**batch, use_cache=False).loss.backward()

    was_training = model.training
    if config.init_lora_weights == "corda":
        preprocess_corda(model, config, run_model=run_model)
    else:
        preprocess_loraga(model, config, train_step=train_step)
    model.train(was_training)
    adapted = get_peft_model(model, config)
    for module in model.modules():
        vars(module).pop("eigens", None)  # CorDA leaves these tensors, which are as large as the weights
    return adapted


def _check_tokens(config: Any, batches: list[Mapping[str, Any]]) -> None:
    """Raise UserError for too few tokens: peft skips mini-batches with fewer tokens than components, and never ends."""
    largest = max([config.r, *config.rank_pattern.values()])
    needed = math.ceil(largest * config.eva_config.rho)
    uses_labels = config.eva_config.use_label_mask
    counts = [int((b["labels"] != -100 if uses_labels else b["attention_mask"].bool()).sum()) for b in batches]
    if max(counts) < needed:
        raise UserError(
            f"method.rank * method.beginning_options.rho must be at most {max(counts)}, the tokens that are read of "
            f"{_EVA_BATCH_SIZE} examples, got {needed}; method.beginning_options.use_label_mask=false reads prompts too"
        )

"""Refuses a training whose steps would depend on how their examples are cut into batches.

A few tokens go through the very batches of the training (padded, or packed into a row) and TRL's loss, and each example
alone through the model's own forward pass. Both must say the same, and in the batch no example's log-probabilities may
have a gradient by another example's tokens: in half precision, or with small weights, a leak is smaller than rounding.
A list of models would be shorter than the truth: what is right depends on the model's code, the attention, the kernels
that are installed, and on TRL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import add_fused_lm_head

from gmt.errors import UserError
from gmt.machine_faults import machine_fault
from gmt.models.forward_key import forward_key
from gmt.training.paradigms import collator
from gmt.training.settings import TrainSettings
from gmt.training.trainer_patches import TrainerPatches
from gmt.training.workers import agreed, index

_log = logging.getLogger(__name__)

_FIRST, _SECOND = 9, 6  # tokens of the two examples, of different lengths so that one is padded
# nats a token; on a GPU with room for TF32, which convolutions use. What is wrong is wrong by more in a trained model.
_ROUNDING = {("cpu", torch.float32): 1e-3, ("cuda", torch.float32): 1e-2}
_ROUNDING_OF_HALVES = 0.3
_KNOWN: dict[tuple[Any, ...], tuple[str, ...]] = {}

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


def check_steps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, settings: TrainSettings
) -> None:
    """Refuses a training of which a step depends on its cut, by `check_alike` on tokens of its first examples.

    Args:
        model: as it was loaded, and as it is afterwards.
        tokenizer: its pad token pads.
        examples: rows as of `gmt.training.train.train`.
        settings: the train group.

    Raises:
        UserError: as `check_alike`.
    """
    rows = examples.select(range(min(4, len(examples)))).to_list()
    tokens = [token for row in rows for name, ids in row.items() if name.endswith("_ids") for token in ids]
    kind = "preferences" if settings.paradigm == "dpo" else "packed" if settings.packing else "padded"
    patches = TrainerPatches(model)
    add_fused_lm_head(model)
    try:
        check_alike(model, collator(settings, tokenizer), tokens, batch_size=settings.micro_batch_size, kind=kind)
    finally:
        patches.remove()


def check_steps_together(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, settings: TrainSettings
) -> None:
    """Call `check_steps` on the first worker, and refuse on all if it refuses; each worker must call this.

    The first worker's model is on the device that trains it. Those of the others may still be on the CPU, where some
    attention kernels do not run.

    Raises:
        UserError: as `check_steps`, with the same sentences on every worker.
    """
    refusal: list[str] = []
    if index() == 0:
        try:
            check_steps(model, tokenizer, examples, settings)
        except UserError as error:
            refusal = list(error.sentences)
    if refusal := agreed(refusal):
        raise UserError(*refusal)


def check_alike(model: PreTrainedModel, collate: Collate, tokens: Sequence[int], *, batch_size: int, kind: str) -> None:
    """Refuses a model of which an example's loss changes with the examples beside it; tried once in a process.

    Args:
        model: with TRL's fused head.
        collate: makes a batch of rows.
        tokens: some that the model has an embedding for; they are repeated as need be.
        batch_size: rows of a batch.
        kind: of the rows: `padded`, `packed` or `preferences`.

    Raises:
        UserError: with the setting that would help, if there is one.
    """
    key = (*forward_key(model), batch_size > 1, kind)
    if key not in _KNOWN:
        _KNOWN[key] = tuple(_faults(model, collate, tokens, batch_size, kind))
    if _KNOWN[key]:
        raise UserError(*_KNOWN[key])


def _faults(model: PreTrainedModel, collate: Collate, tokens: Sequence[int], batch_size: int, kind: str) -> list[str]:
    examples = _examples(tokens)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            reference = _computed(lambda: [_log_probs_alone(model, ids) for ids in examples])
            if isinstance(reference, str):
                return [
                    f"model.path and model.attention must name a model whose forward pass works on "
                    f"{model.device.type}, which it does not for type {model.config.model_type}: {reference}"
                ]
            if not all(bool(each.isfinite().all()) for each in reference):
                return []  # a training that says so itself
            rounding = _ROUNDING.get((model.device.type, model.dtype), _ROUNDING_OF_HALVES)
            alone = _difference(lambda: [_fused(model, _padded([ids]))[0] for ids in examples], reference, rounding)
            if alone is not None:
                return [
                    f"model.path must name a model that TRL trains by the model's own loss, which it does not for "
                    f"type {model.config.model_type}: {alone}"
                ]
            if kind == "padded" and batch_size == 1:
                return []
            together = _difference(lambda: _in_batch(model, collate, examples, kind), reference, rounding)
            together = together or _leak(model, collate, examples, kind)
    finally:
        model.train(was_training)
    if together is None:
        return []
    if kind == "packed":
        return [
            f"train.packing must be false for a model of type {model.config.model_type}, which does not keep the "
            f"examples of a row apart: {together}"
        ]
    setting = "train.micro_batch_size must be 1" if kind == "padded" else "train.paradigm must be sft"
    return [f"{setting} for a model of type {model.config.model_type}, which does not pass over padding: {together}"]


def _examples(tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    many = list(islice(cycle(tokens), _FIRST + _SECOND))
    return many[:_FIRST], many[: -_SECOND - 1 : -1]


def _log_probs_alone(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """The log-probability of each token behind the first, by the model's own forward pass, with nothing beside it."""
    one = torch.tensor([ids], device=model.device)
    logits = model(input_ids=one, use_cache=False).logits[0, :-1].float()
    log_probs: Tensor = logits.log_softmax(-1).gather(1, one[0, 1:, None])[:, 0]
    return log_probs


def _padded(examples: Sequence[list[int]]) -> dict[str, Tensor]:
    (ids,) = examples
    one = torch.tensor([ids])
    return {"input_ids": one, "attention_mask": torch.ones_like(one), "labels": one}


def _in_batch(
    model: PreTrainedModel, collate: Collate, examples: tuple[list[int], list[int]], kind: str
) -> list[Tensor]:
    """The log-probabilities of both examples, from a batch as the training makes it."""
    first, second = examples
    if kind == "packed":
        both = first + second
        (row,) = _fused(model, collate([{"input_ids": both, "labels": both, "seq_lengths": [len(first), len(second)]}]))
        return [row[: len(first) - 1], row[len(first) :]]
    if kind == "preferences":
        batch = collate(
            [
                {"prompt_ids": first[:1], "chosen_ids": first[1:], "rejected_ids": []},
                {"prompt_ids": second[:1], "chosen_ids": second[1:], "rejected_ids": []},
            ]
        )
        batch["labels"] = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
        rows = _fused(model, batch)
    else:
        rows = _fused(model, collate([{"input_ids": ids, "labels": ids} for ids in examples]))
    return [row[: len(ids) - 1] for ids, row in zip(examples, rows, strict=False)]


def _leak(model: PreTrainedModel, collate: Collate, examples: tuple[list[int], list[int]], kind: str) -> str | None:
    """Say that an example's log-probabilities depend on tokens of the batch beside its own; None if they do not.

    A gradient is zero to the bit in any dtype if a mask keeps the examples apart. None too, with a line in the log, for
    a model whose code has no gradient by its token embeddings, or embeds other tokens than the batch's.
    """
    seen: list[tuple[Tensor, Tensor]] = []  # token ids and their embeddings

    def watch(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append((inputs[0], output.detach().requires_grad_()))
        return seen[-1][1].clone()  # which a model may write into

    def differentiated() -> list[Tensor]:
        with torch.enable_grad():
            log_probs = _in_batch(model, collate, examples, kind)
            ((_, embeddings),) = seen
            return [torch.autograd.grad(each.sum(), embeddings, retain_graph=True)[0].clone() for each in log_probs]

    hook = model.get_input_embeddings().register_forward_hook(watch)
    try:
        gradients = _computed(differentiated)
    finally:
        hook.remove()
    if isinstance(gradients, str):
        _log.info("no check by gradients that the examples of a batch are apart: %s", gradients)
        return None
    ((ids, _),) = seen
    for example, (row, begin), gradient in zip(examples, _places(examples, kind), gradients, strict=True):
        for in_rows, by_token in ((ids, gradient), (ids.mT, gradient.transpose(0, 1))):  # XLNet has a column for a row
            if in_rows[row, begin : begin + len(example)].tolist() == example:
                by_token[row, begin : begin + len(example)] = 0
                if bool((by_token.abs() > 0).any()):  # NaN is none
                    return "its tokens' log-probabilities have a gradient by tokens that are not its own"
                break
    return None


def _places(examples: tuple[list[int], list[int]], kind: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return row and column of each example's first token in a batch."""
    return ((0, 0), (0, len(examples[0]))) if kind == "packed" else ((0, 0), (1, 0))


def _fused(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """The log-probabilities [row, position] of the labels behind the first, as TRL's losses take them."""
    on_device = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    found: Tensor = model(**on_device, use_cache=False, fused_lm_head=True).log_probs
    return found.float()


def _computed(compute: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor] | str:
    """Return the log-probabilities, or the error of the model's code or TRL's, which were not made for each other."""
    try:
        return compute()
    except Exception as error:  # third-party code, where Triton's errors have no narrower base class
        if isinstance(error, torch.OutOfMemoryError) or machine_fault(error) is not None:
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _difference(compute: Callable[[], Sequence[Tensor]], reference: Sequence[Tensor], rounding: float) -> str | None:
    """Return how the computed log-probabilities differ from the reference, or None if they do not."""
    found = _computed(compute)
    if isinstance(found, str):
        return found
    # the mean of an example, since in half precision a near tie may send a single token to another expert
    off = max(float((a - b).abs().mean()) for a, b in zip(found, reference, strict=True))
    return None if off <= rounding else f"its tokens' log-probabilities are off by {off:.2g} in the mean"

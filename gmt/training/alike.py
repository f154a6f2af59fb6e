"""Refuses a training whose steps would depend on how examples are divided into batches.

Two short examples are evaluated twice: in a batch of the training (padded, or packed into a row) by TRL's loss, and
alone by the model's own forward pass. Both must give the same log-probabilities. In the batch, no example's
log-probabilities may have a gradient by another example's tokens; this finds leaks that are smaller than rounding, in
half precision or with small weights. No list of models could replace the check: its outcome depends on the model's
code, the attention, the installed kernels, and TRL.
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
from gmt.training.workers import broadcast, index

_log = logging.getLogger(__name__)

_FIRST, _SECOND = 9, 6  # tokens of the two examples; the lengths differ, so that one example is padded
# Nats a token; the GPU's limit allows for TF32 in convolutions. In a trained model real faults are larger.
_ROUNDING = {("cpu", torch.float32): 1e-3, ("cuda", torch.float32): 1e-2}
_ROUNDING_OF_HALVES = 0.3
_KNOWN: dict[tuple[Any, ...], tuple[str, ...]] = {}

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


def check_steps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, settings: TrainSettings
) -> None:
    """Refuse a training whose steps depend on the division into batches, by `check_alike` on its first tokens.

    Args:
        model: the model as it was loaded; left unchanged.
        tokenizer: the model's tokenizer, whose pad token is used.
        examples: the training examples, see gmt.training.train.train.
        settings: the train group.

    Raises:
        UserError: see check_alike.
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

    The first worker's model is on the device that trains it. Models of other workers may still be on the CPU, where
    some attention kernels do not run.

    Raises:
        UserError: see check_steps; the sentences are the same on every worker.
    """
    refusal: list[str] = []
    if index() == 0:
        try:
            check_steps(model, tokenizer, examples, settings)
        except UserError as error:
            refusal = list(error.sentences)
    if refusal := broadcast(refusal):
        raise UserError(*refusal)


def check_alike(model: PreTrainedModel, collate: Collate, tokens: Sequence[int], *, batch_size: int, kind: str) -> None:
    """Refuse a model if an example's loss depends on other examples of the batch; a process checks a model once.

    Args:
        model: the model, with TRL's fused head.
        collate: makes a batch from rows.
        tokens: ids that the model has embeddings for; repeated if they are too few.
        batch_size: the number of rows of a training batch.
        kind: the kind of the rows: `padded`, `packed` or `preferences`.

    Raises:
        UserError: the loss depends on the batch, or the forward pass fails; the message names a setting that helps.
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
            if not all(bool(log_probs.isfinite().all()) for log_probs in reference):
                return []  # the training itself reports a loss that is not finite
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
    """Return two examples of _FIRST and _SECOND tokens, repeating the given tokens if they are too few."""
    ids = list(islice(cycle(tokens), _FIRST + _SECOND))
    return ids[:_FIRST], ids[: -_SECOND - 1 : -1]


def _log_probs_alone(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return the log-probability of each token after the first, from the model's own forward pass on this example."""
    ids_1T = torch.tensor([ids], device=model.device)
    logits = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    log_probs: Tensor = logits.log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0]
    return log_probs


def _padded(examples: Sequence[list[int]]) -> dict[str, Tensor]:
    (ids,) = examples
    ids_1T = torch.tensor([ids])
    return {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T), "labels": ids_1T}


def _in_batch(
    model: PreTrainedModel, collate: Collate, examples: tuple[list[int], list[int]], kind: str
) -> list[Tensor]:
    """Return the log-probabilities of both examples, from a batch like the training's."""
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
    """Return a clause if an example's log-probabilities depend on another example's tokens; None if they do not.

    If a mask keeps the examples apart, the gradient is exactly zero in any dtype. The result is None, too, if the check
    is impossible: if the model's code has no gradient with respect to its token embeddings (a line is then logged), or
    if it embeds other tokens than the batch's.
    """
    embedded: list[tuple[Tensor, Tensor]] = []  # token ids and their embeddings

    def store_embeddings(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embedded.append((inputs[0], output.detach().requires_grad_()))
        return embedded[-1][1].clone()  # the model may write into the copy

    def differentiated() -> list[Tensor]:
        with torch.enable_grad():
            log_probs = _in_batch(model, collate, examples, kind)
            ((_, embeddings),) = embedded
            return [
                torch.autograd.grad(of_example.sum(), embeddings, retain_graph=True)[0].clone()
                for of_example in log_probs
            ]

    hook = model.get_input_embeddings().register_forward_hook(store_embeddings)
    try:
        gradients = _computed(differentiated)
    finally:
        hook.remove()
    if isinstance(gradients, str):
        _log.info("gradients can't show whether the examples of a batch are kept apart: %s", gradients)
        return None
    ((ids, _),) = embedded
    for example, (row, begin), gradient in zip(examples, _places(examples, kind), gradients, strict=True):
        for in_rows, by_token in (
            (ids, gradient),
            (ids.mT, gradient.transpose(0, 1)),
        ):  # XLNet has an example in a column
            if in_rows[row, begin : begin + len(example)].tolist() == example:
                by_token[row, begin : begin + len(example)] = 0
                if bool((by_token.abs() > 0).any()):  # NaN counts as zero
                    return "the log-probabilities of an example have a gradient by tokens outside the example"
                break
    return None


def _places(examples: tuple[list[int], list[int]], kind: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the row and column of both examples' first tokens in a batch."""
    return ((0, 0), (0, len(examples[0]))) if kind == "packed" else ((0, 0), (1, 0))


def _fused(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Return the log-probabilities [row, position] of the labels after the first, which TRL's losses use."""
    on_device = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    log_probs: Tensor = model(**on_device, use_cache=False, fused_lm_head=True).log_probs
    return log_probs.float()


def _computed(compute: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor] | str:
    """Return the log-probabilities, or the error if the model's code and TRL do not work together."""
    try:
        return compute()
    except Exception as error:  # third-party code, where Triton's errors have no narrower base class
        if isinstance(error, torch.OutOfMemoryError) or machine_fault(error) is not None:
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _difference(compute: Callable[[], Sequence[Tensor]], reference: Sequence[Tensor], rounding: float) -> str | None:
    """Return how the computed log-probabilities differ from the reference, or None if they do not."""
    log_probs = _computed(compute)
    if isinstance(log_probs, str):
        return log_probs
    # the mean over an example, since in half precision a near tie may send a single token to another expert
    error = max(float((x - expected).abs().mean()) for x, expected in zip(log_probs, reference, strict=True))
    return None if error <= rounding else f"the log-probabilities of an example are off by {error:.2g} on average"

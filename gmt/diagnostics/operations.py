"""Floating-point operations of a training step with its backward pass, as PyTorch's dispatcher counts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt.diagnostics.protocol import Row, Shown
from gmt.errors import UserError
from gmt.methods.protocol import AddsLoss

if TYPE_CHECKING:
    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of the forward and backward passes. Rows: `step`, one optimizer step on the first examples in their
    order; `training`, this number times the number of steps.

    PyTorch counts matrix products, and in attention those of its formula, whichever kernel the training uses. It does
    not count elementwise work, the optimizer and the mask, whose cost is in the measured times. Gradients of frozen
    parameters are not counted.

    A loss term that the method adds is counted, with all forward and backward passes that the term needs.

    Args:
        name: the diagnostic's name in tables.
    """

    name: str

    needs_weights = False
    shown = Shown(title="Matrix operations", panels={"training": "operations of the whole training"})

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Count on the CPU.

        Raises:
            UserError: the run did not train, or trained on preferences, packed rows or several workers; or the package
                of its optimizer is not installed.
        """
        if run.result is None or run.result.training is None:
            raise UserError("operations can be counted only for a run that trained, and this run did not")
        step = step_flops(run)
        yield Row(name="step", value=step)
        yield Row(name="training", value=step * run.result.training.num_steps)


def step_flops(run: FinishedRun) -> int:
    """Return the operations of one optimizer step; see `Operations`.

    Raises:
        UserError: see `Operations.rows`.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from gmt.training.attaching import attach_method
    from gmt.training.optimizers import check_installed
    from gmt.training.paradigms import collator, optimizer_of
    from gmt.training.reshaping import Examples, Reshaping

    if run.train.paradigm != "sft" or run.train.packing or run.workers > 1:
        raise UserError("operations are counted for train.paradigm=sft without packing on one worker only")
    check_installed(run.train.optimizer)
    examples, collate = run.examples(), collator(run.train, run.reader().tokenizer)
    model = run.model.load_model().train()
    read = Examples(rows=examples, collate=collate, device="cpu")
    Reshaping(run.method, model, seed=run.seed, examples=read)
    optimizer = optimizer_of(run.method, model, run.train)
    term = run.method.loss_term(model, base=run.model.load_model) if isinstance(run.method, AddsLoss) else None
    attached = attach_method(
        run.method, model, optimizer, seed=run.seed, facts_every=0, source=run.source, examples=read
    )
    attached.begin_epoch(0)
    size, total = run.train.micro_batch_size, 0
    for i in range(run.train.accumulation_steps):
        rows = [examples[j % len(examples)] for j in range(i * size, (i + 1) * size)]
        # the counter knows no operations of the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            batch = collate(rows)
            loss = model(**batch).loss
            (loss if term is None else loss + term(batch)).backward()
        total += counter.get_total_flops()
        run.on_progress(i + 1, run.train.accumulation_steps)
    return total

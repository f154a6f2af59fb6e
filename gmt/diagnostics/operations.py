"""Floating-point operations of a training step with its backward pass, as PyTorch's dispatcher counts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.diagnostics.protocol import Row, Shown
from gmt.errors import UserError

if TYPE_CHECKING:
    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of the forward and backward passes. Rows: `step`, one optimizer step on the first examples in their
    order; `training`, this number times the number of steps.

    PyTorch counts matrix products, those of attention by its formula, whatever kernel trains. It does not count
    elementwise work, the optimizer and the mask, whose cost is in the measured times. Gradients of frozen parameters
    are not counted.

    Args:
        name: the diagnostic's name in tables.
    """

    name: str

    needs_weights = False
    shown = Shown(title="Matrix operations", panels={"training": "operations of the whole training"})

    def __post_init__(self) -> None:
        settings.folder_name("diagnostic.name", self.name)

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Count on the CPU.

        Raises:
            UserError: the run did not train, or trained on preferences, packed rows or several workers.
        """
        if run.result is None or run.result.training is None:
            raise UserError("operations are counted of trainings, and this run has none")
        step = step_flops(run)
        yield Row(name="step", value=step)
        yield Row(name="training", value=step * run.result.training.num_steps)


def step_flops(run: FinishedRun) -> int:
    """Return the operations of one optimizer step; see `Operations`.

    Raises:
        UserError: see `Operations.rows`.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from gmt.training.attachment import attach_method
    from gmt.training.paradigms import collator
    from gmt.training.reshaping import Examples, Reshaping

    if run.train.paradigm != "sft" or run.train.packing or run.workers > 1:
        raise UserError("operations are counted for train.paradigm=sft without packing on one worker only")
    examples, collate = run.examples(), collator(run.train, run.reader().tokenizer)
    model = run.model.load_model().train()
    read = Examples(rows=examples, collate=collate, device="cpu")
    Reshaping(run.method, model, seed=run.seed, examples=read)
    optimizer = torch.optim.AdamW(model.parameters())
    attached = attach_method(run.method, model, optimizer, seed=run.seed, facts_every=0, source=None, examples=read)
    attached.begin_epoch(0)
    size, total = run.train.micro_batch_size, 0
    for i in range(run.train.accumulation_steps):
        rows = [examples[j % len(examples)] for j in range(i * size, (i + 1) * size)]
        # the counter knows no operations of the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**collate(rows)).loss.backward()
        total += counter.get_total_flops()
        run.on_progress(i + 1, run.train.accumulation_steps)
    return total

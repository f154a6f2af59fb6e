"""Floating-point operations of a training step, counted by PyTorch as they are dispatched, backward included."""

from __future__ import annotations

import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gmt.errors import UserError
from gmt.records.record import RecordBusy
from gmt.runs.build import Run
from gmt.runs.prepare import prepare
from gmt.training.paradigms import collator
from gmt.training.reshaping import Reshaping

_FILE = "operations.json"


def count_flops(run: Run) -> None:
    """Counts `step_flops` of a finished run and keeps them in its record, once; nothing where they can't be counted.

    Raises:
        UserError: another process is at work on the record.
    """
    if not (run.record.folder / _FILE).exists():
        try:
            counted = step_flops(run)
        except UserError:
            counted = None
        try:
            with run.record.at_work():
                run.record.write_later(_FILE, json.dumps({"step_flops": counted}) + "\n")
        except RecordBusy as error:
            raise UserError(str(error)) from error


def step_flops(run: Run) -> int:
    """The operations of the forward and backward passes of one optimizer step, on the first examples in their order.

    Matrix products are counted, those of attention as its formula has them, whatever kernel trains; elementwise work,
    the optimizer and the mask are not, since PyTorch's counter knows no number for them: what they cost is in the
    times. What a method freezes costs no gradient.

    Raises:
        UserError: the run trains on preferences, packed rows or several workers, whose batches are made elsewhere.
    """
    if run.train.paradigm != "sft" or run.train.packing or run.resources.workers > 1:
        raise UserError("operations are counted for train.paradigm=sft without packing on one worker only")
    prepared, model = prepare(run), run.model.load_model().train()
    Reshaping(run.method, model, seed=run.seed)
    optimizer = torch.optim.AdamW(model.parameters())
    attached = run.method.attach(model, optimizer, seed=run.seed, facts_every=0)
    attached.begin_epoch(0)
    collate = collator(run.train, prepared.reader.tokenizer)
    size, total = run.train.micro_batch_size, 0
    for i in range(run.train.accumulation_steps):
        rows = [prepared.examples[j % prepared.num_examples] for j in range(i * size, (i + 1) * size)]
        # the counter knows no operations of the CPU's fused attention
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**collate(rows)).loss.backward()
        total += counter.get_total_flops()
    return total

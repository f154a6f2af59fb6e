"""Operations of a step against those of the model's matrices by hand."""

from pathlib import Path

import pytest
from transformers import DataCollatorForSeq2Seq

from gmt.diagnostics.operations import step_flops
from gmt.errors import UserError
from gmt.runs.diagnose import finished
from gmt.runs.prepare import prepare
from tests.integration.test_prepare import run_of


def test_forward_is_two_operations_an_entry_and_backward_twice_as_much(tmp_path: Path) -> None:
    run = run_of(tmp_path, "train.accumulation_steps=1", "train.micro_batch_size=4")
    prepared = prepare(run)
    batch = DataCollatorForSeq2Seq(prepared.reader.tokenizer)([prepared.examples[i] for i in range(4)])
    tokens = batch["input_ids"].numel()
    matrices = [p for name, p in run.model.base().named_parameters() if p.ndim == 2]  # the embedding is the head too
    linear = 3 * 2 * tokens * sum(p.numel() for p in matrices)
    config, (rows, width) = run.model.base().config, batch["input_ids"].shape
    attention = 3 * 2 * 2 * rows * width**2 * config.hidden_size * config.num_hidden_layers
    assert step_flops(finished(run)) == pytest.approx(linear + attention, rel=0.005)


def test_what_is_frozen_costs_no_gradient_and_what_is_masked_does(tmp_path: Path) -> None:
    methods = ("sft", "gmt", "hft", "green")
    sft, gmt, hft, green = (step_flops(finished(run_of(tmp_path, f"method={method}"))) for method in methods)
    assert sft == gmt > hft > green
    assert 0.4 * sft < green <= 0.5 * sft  # green's budget


def test_more_accumulation_is_more_operations(tmp_path: Path) -> None:
    one, two = (step_flops(finished(run_of(tmp_path, f"train.accumulation_steps={n}"))) for n in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.2)


def test_packed_rows_are_not_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without packing"):
        step_flops(finished(run_of(tmp_path, "train.packing=true")))

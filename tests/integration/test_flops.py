"""Operations of a step against those of the model's matrices by hand."""

from pathlib import Path

import pytest
import torch
from transformers import DataCollatorForSeq2Seq

from gmt.diagnostics.operations import step_flops
from gmt.errors import UserError
from gmt.methods.protocol import maker_of_optimizer
from gmt.methods.source_prompts import ReadsSource
from gmt.runs.diagnose import finished
from gmt.runs.prepare import prepare
from tests.arms import ARMS, method_of, overrides_of
from tests.integration.test_prepare import run_of


def is_own(arm: str) -> bool:
    """Return whether an arm makes its optimizer or reads source prompts; the others are counted in the slow tests."""
    method = method_of(arm)
    return maker_of_optimizer(method) is not None or (isinstance(method, ReadsSource) and method.reads_source)


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
    methods = ("sft", "gmt", "gem", "hft", "green")
    sft, gmt, gem, hft, green = (step_flops(finished(run_of(tmp_path, f"method={method}"))) for method in methods)
    assert sft == gmt > gem > hft > green  # gem trains the weights of linear layers alone
    assert 0.4 * sft < green <= 0.5 * sft  # green's budget


@pytest.mark.parametrize(
    "arm",
    [pytest.param(arm, marks=() if is_own(arm) else pytest.mark.slow) for arm in ARMS],
)
def test_the_step_of_every_arm_is_counted(arm: str, tmp_path: Path) -> None:
    assert step_flops(finished(run_of(tmp_path, "task.train.words.num_examples=64", *overrides_of(arm, tmp_path)))) > 0


def test_the_passes_of_a_loss_term_are_counted(tmp_path: Path) -> None:
    """mft computes with masked weights as r_amt does, whose term takes two forward passes and a backward pass more."""
    targets = ("method.targets=all-linear", "method.layers=null")
    mft, r_amt = (step_flops(finished(run_of(tmp_path, f"method={arm}", *targets))) for arm in ("mft", "r_amt"))
    assert r_amt > 2 * mft


def test_a_probe_of_a_counted_step_takes_the_runs_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[torch.optim.Optimizer] = []

    def importance(model: object, optimizer: torch.optim.Optimizer, parameters: list[object], _: object) -> list[float]:
        probed.append(optimizer)
        return [1.0] * len(parameters)

    monkeypatch.setattr("gmt.methods.green.importance", importance)
    step_flops(finished(run_of(tmp_path, "method=green", "train.learning_rate=0.0123", "train.adam_beta2=0.9")))
    (optimizer,) = probed
    assert {(group["lr"], group["betas"][1]) for group in optimizer.param_groups} == {(0.0123, 0.9)}


def test_more_accumulation_is_more_operations(tmp_path: Path) -> None:
    one, two = (step_flops(finished(run_of(tmp_path, f"train.accumulation_steps={n}"))) for n in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.2)


def test_packed_rows_are_not_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without packing"):
        step_flops(finished(run_of(tmp_path, "train.packing=true")))

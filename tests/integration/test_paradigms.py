"""Every method trains by supervised fine-tuning and by preferences; packing changes only what is computed together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.methods.protocol import UsesContext
from gmt.runs.build import Run, build
from gmt.runs.execute import execute
from gmt.runs.prepare import prepare
from gmt.training.paradigms import Execution, TrainingInputs, trainer_of
from tests.arms import ARMS, begins_as_base, overrides_of, reads_examples
from tests.conftest import CONF

USUAL = {"sft", "gmt", "gmt_update", "hft", "lora"}
METHODS = [pytest.param(arm, marks=[] if arm in USUAL else pytest.mark.slow) for arm in ARMS]
PREFERENCES = [
    {"prompt": f"Calculate {a} + {b}.", "chosen": str(a + b), "rejected": str(a + b + 1)}
    for a in range(14, 19)
    for b in range(1, 5)
]


def run_of(tmp_path: Path, *overrides: str) -> Run:
    with hydra_on(str(CONF)):
        return build(Composer().compose_plain([f"record.root={tmp_path}/results", "tracking=none", *overrides]))


def preferences(tmp_path: Path) -> list[str]:
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PREFERENCES))
    return [
        "task=preferences",
        f"task.data.path={file}",
        "train=dpo",
        "train.micro_batch_size=4",
        "train.precision=fp32",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_preferences(method: str, tmp_path: Path) -> None:
    wanted = ["train.learning_rate=1e-3", "train.num_epochs=6", "train.accumulation_steps=1", "record.log_every=1"]
    if reads_examples(method):
        with pytest.raises(UserError, match=rf"train\.paradigm must be sft for method {method}, which reads examples"):
            run_of(tmp_path, *preferences(tmp_path), f"method={method}")
        return
    run = run_of(tmp_path, *preferences(tmp_path), *wanted, *overrides_of(method, tmp_path))
    record = execute(run)
    rows = [row for row in record.metrics()[0] if "train/loss" in row]
    losses = [row["train/loss"] for row in rows]
    if begins_as_base(method):
        without_term = losses[0] - rows[0].get("train/extra_loss", 0.0)
        assert without_term == pytest.approx(0.6931, abs=1e-3)  # ln 2: at the start the model is its own reference
    assert sum(losses[-5:]) / 5 < losses[0]  # how far a method comes in 30 steps is its own affair
    result = record.read("result.json")
    assert (0 < result["moved_fraction"] <= 1) != isinstance(run.method, UsesContext)
    assert (result["num_train_examples"], result["num_left_over_examples"]) == (20, 0)


def test_preferences_that_fill_no_step_are_left_over(tmp_path: Path) -> None:
    made = prepare(run_of(tmp_path, *preferences(tmp_path), "train.accumulation_steps=3"))
    assert (made.num_examples, made.num_left_over) == (12, 8)


def gradients(run: Run, tmp_path: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, Any]]:
    """The gradient of the first step, whatever the order of the examples: the batch holds all."""
    prepared, model = prepare(run), run.model.load_model()
    made = TrainingInputs(
        model=model,
        tokenizer=prepared.reader.tokenizer,
        examples=prepared.examples,
        reference=run.model.load_model,
        base=run.model.load_model,
        method=run.method,
    )
    where = Execution(device="cpu", sharding="none", checkpoints=tmp_path / "c", checkpoint_every=9, log_every=1)
    trainer = trainer_of(made, run.train, 1, where, [])
    batch = next(iter(trainer.get_train_dataloader()))
    number = (batch["labels"][:, 1:] >= 0).sum()
    model.train()
    trainer.compute_loss(model, dict(batch), num_items_in_batch=number).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, batch


def test_examples_in_one_row_do_not_see_each_other(tmp_path: Path) -> None:
    few = ["task=tiny", "train.micro_batch_size=1000", "train.max_length=64"]
    plain, apart = gradients(run_of(tmp_path, *few), tmp_path)
    packed, together = gradients(run_of(tmp_path, *few, "train.packing=true"), tmp_path)
    assert together["input_ids"].numel() < apart["input_ids"].numel()
    assert (together["labels"] >= 0).sum() == (apart["labels"] >= 0).sum()
    for name, gradient in plain.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-3, atol=1e-6)  # sums in another order


def test_a_packed_training_counts_its_tokens(tmp_path: Path) -> None:
    few = ["task=tiny", "train.max_length=64"]
    results = [execute(run_of(tmp_path, *few, *more)).read("result.json") for more in ([], ["train.packing=true"])]
    tokens, examples = ([result[k] for result in results] for k in ("training", "num_train_examples"))
    assert tokens[0]["num_tokens"] == tokens[1]["num_tokens"]
    assert tokens[1]["num_steps"] < tokens[0]["num_steps"]
    assert examples[0] == examples[1]


def test_paradigm_and_task_must_fit(tmp_path: Path) -> None:
    from gmt.errors import UserError

    with pytest.raises(UserError, match=r"train\.paradigm must be sft for task tiny"):
        run_of(tmp_path, "task=tiny", "train=dpo")
    with pytest.raises(UserError, match=r"train\.paradigm must be dpo for task preferences"):
        run_of(tmp_path, *preferences(tmp_path), "train=quickstart")

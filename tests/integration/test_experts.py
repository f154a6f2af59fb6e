"""Mixtures of experts, and what a trainer puts on a model: evaluation and saved weights know nothing of either."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from gmt.errors import Interrupted, UserError
from gmt.models.pretrained import SHIPPED
from gmt.records.record import RunRecord
from gmt.runs import stages, train_stage
from gmt.runs.build import Run
from gmt.runs.execute import execute
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.control import Control
from tests.architectures import tiny_folder
from tests.integration.test_paradigms import preferences, run_of

EXPERTS = [
    pytest.param(kind, marks=[] if kind == "mixtral" else pytest.mark.slow)
    for kind in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe", "gpt_oss")
]
KEEPS = ["record.keep_weights=true", "record.log_every=1", "train.num_epochs=1"]


def losses(record: RunRecord) -> list[float]:
    return [row["train/loss"] for row in record.metrics()[0] if "train/loss" in row]


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("paradigm", ["sft", "dpo"])
def test_experts_train_and_are_evaluated(kind: str, paradigm: str, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", kind)
    settings = [f"model.path={folder}", "model.gradient_checkpointing=true", "record.evaluate_every=2", *KEEPS]
    task = [*preferences(tmp_path), "train.accumulation_steps=1"] if paradigm == "dpo" else ["task=tiny"]
    attention = ["model.attention=eager"] if kind == "gpt_oss" else []  # it has no other on the CPU
    record = execute(run_of(tmp_path, *task, *settings, *attention, "method=gmt"))
    assert record.state() == "done"
    assert any("eval/target_mean" in row and row["step"] == 2 for row in record.metrics()[0])
    AutoConfig.from_pretrained(folder).save_pretrained(tmp_path / "read")  # some configs change as they are read
    before, after = (
        json.loads((where / "config.json").read_text()) for where in (tmp_path / "read", record.folder / "weights")
    )
    assert after == before


def test_the_loss_of_experts_is_what_is_said_of_the_answers_tokens_alone(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", "mixtral", router_aux_loss_coef=0.5)
    cuts = [[f"train.micro_batch_size={size}", f"train.accumulation_steps={32 // size}"] for size in (4, 16)]
    found = [losses(execute(run_of(tmp_path, "task=tiny", f"model.path={folder}", *cut, *KEEPS))) for cut in cuts]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_checkpoint_that_the_routers_loss_helped_to_train_is_left(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", "mixtral", router_aux_loss_coef=0.5)
    settings = ["task=tiny", f"model.path={folder}", "record.checkpoint_every=2", *KEEPS]
    whole = execute(run_of(tmp_path / "whole", *settings)).read("result.json")
    run = run_of(tmp_path, *settings)
    with pytest.raises(Interrupted):
        execute(run, Control(should_stop=lambda: last_whole_checkpoint(run.record.checkpoints) is not None))
    for file in run.record.checkpoints.glob("*/config.json"):
        assert json.loads(file.read_text())["router_aux_loss_coef"] == 0
        file.write_text(json.dumps(json.loads(file.read_text()) | {"router_aux_loss_coef": 0.5}))
        torch.save({"num_shards": 1, "state": {}}, file.with_name("method_state.pt"))  # nobody reads it
    assert last_whole_checkpoint(run.record.checkpoints) is None
    assert execute(run).read("result.json")["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_is_evaluated_as_it_will_be_loaded(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the training's autocast, and with the config of its folder, on the way and at the end."""
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    given = {"use_cache": False, "pad_token_id": 5, "eos_token_id": 7, "bos_token_id": 9}
    for name in ("config.json", "generation_config.json"):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | given))
    seen, evaluate = [], stages.evaluate

    def spy(run: Run, prepared: Any, model: PreTrainedModel, *more: Any, **how: Any) -> Any:
        logits = model(input_ids=torch.tensor([[3, 4, 5]])).logits
        torch.testing.assert_close(
            logits, type(model).forward(model, input_ids=torch.tensor([[3, 4, 5]])).logits, rtol=0, atol=0
        )
        seen.append((model.config.to_dict(), model.generation_config.to_dict()))
        return evaluate(run, prepared, model, *more, **how)

    for module in (stages, train_stage):
        monkeypatch.setattr(module, "evaluate", spy)
    settings = [f"model.path={folder}", f"train.precision={precision}", "record.evaluate_every=2", *KEEPS]
    record = execute(run_of(tmp_path, "task=tiny", *settings))
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((where / name).read_text()) for where in (folder, record.folder / "weights"))
        assert {key: after.get(key) for key in before if key in given} == given


def test_a_model_that_sees_its_row_is_refused_before_the_base_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(tmp_path / "model", "opt")
    monkeypatch.setattr(stages, "evaluate", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UserError, match=r"train\.packing must be false for a model of type opt, .* off by"):
        execute(run_of(tmp_path, "task=tiny", f"model.path={folder}", "train.packing=true"))

"""Methods that put parts of their own into a model: trained, resumed, merged, evaluated, and read again by peft."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from gmt.composition import config_dir
from gmt.diagnostics.operations import step_flops
from gmt.errors import Interrupted, UserError
from gmt.methods.protocol import ReshapesModel
from gmt.runs.build import Run
from gmt.runs.diagnose import finished
from gmt.runs.drop import drop
from gmt.runs.execute import execute
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.control import Control
from gmt.training.weights import weights_sha256
from tests.integration.test_prepare import run_of

ALL = sorted(path.stem for path in Path(config_dir() / "method").glob("*.yaml"))
USUAL = {"lora", "ia3"}
ADAPTERS = [
    pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow)
    for name in ALL
    if isinstance(run_of(Path("unused"), f"method={name}").method, ReshapesModel)
]


def adapted(root: Path, name: str, *overrides: str) -> Run:
    settings = ("train.num_epochs=2", "record.keep_weights=true", "record.checkpoint_every=2")
    return run_of(root, f"method={name}", *settings, *overrides)


def done(run: Run) -> dict[str, Any]:
    result: dict[str, Any] = execute(run).read("result.json")
    return result


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_is_evaluated_is_what_peft_makes_of_the_saved_adapter(name: str, tmp_path: Path) -> None:
    run = adapted(tmp_path / "whole", name)
    result = done(run)
    assert 0 < result["num_trainable"] < 0.15 * result["num_parameters"]
    assert result["num_added"] == result["num_trainable"]
    assert 0 < result["moved_fraction"] < 1
    assert result["training"]["density"] is None
    merged = PeftModel.from_pretrained(run.model.load_model(), run.record.folder / "adapter").merge_and_unload()
    assert weights_sha256(merged.named_parameters()) == result["weights_sha256"]
    (kept,) = run.record.folder.rglob("*.safetensors")
    assert kept.stat().st_size < 4 * result["num_added"] + 2**16


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_stopped_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = done(adapted(tmp_path / "whole", name))
    stopped = adapted(tmp_path / "stopped", name)
    with pytest.raises(Interrupted):
        execute(stopped, Control(should_stop=lambda: last_whole_checkpoint(stopped.record.checkpoints) is not None))
    resumed = done(stopped)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["after"] == whole["after"]


def test_a_seed_decides_how_an_adapter_begins(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = done(adapted(tmp_path / "a", "lora"))
    torch.manual_seed(2)
    assert done(adapted(tmp_path / "b", "lora"))["weights_sha256"] == first["weights_sha256"]
    begun = [
        load_file(adapter(adapted(tmp_path / root, "lora", f"seed={seed}", "train.learning_rate=1e-30")))
        for root, seed in (("c", 1), ("d", 2))
    ]
    assert any(not torch.equal(begun[0][name], begun[1][name]) for name in begun[0])


def adapter(run: Run) -> Path:
    return execute(run).folder / "adapter" / "adapter_model.safetensors"


def test_in_bf16_and_with_evaluations_on_the_way(tmp_path: Path) -> None:
    run = adapted(tmp_path, "lora", "model.dtype=bfloat16", "train.precision=bf16", "record.evaluate_every=2")
    record = execute(run)
    scores = [row["eval/target_mean"] for row in record.metrics()[0] if "eval/target_mean" in row]
    assert len(scores) > 2
    assert record.read("result.json")["after"]["target"]["mean"] == scores[-1]
    (kept,) = (record.folder / "adapter").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(kept).values()} == {torch.float32}  # the weights below are bf16


def test_operations_are_counted_with_the_adapter_in_place(tmp_path: Path) -> None:
    plain, with_adapter = (step_flops(finished(run_of(tmp_path, f"method={name}"))) for name in ("sft", "lora"))
    assert plain / 2 < with_adapter < plain  # frozen weights cost no gradient of their own


def test_a_one_off_drop_says_that_it_needs_whole_weights(tmp_path: Path) -> None:
    run = adapted(tmp_path, "lora")
    execute(run)
    with pytest.raises(UserError, match="needs the whole weights, and this run kept its adapter only"):
        drop(run, [0.5])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["method.targets=[none_such]"],
            r"method\.targets=\['none_such'\].*its linear layers are down_proj, gate_proj",
        ),
        (["method.rank=1000"], r"method\.rank must be at most \d+, the smaller side of model\..*, got 1000"),
        (["method.rank=0"], r"method\.rank must be a whole number of at least 1, got 0"),
        (["method.rank=null"], r"method\.rank must be a whole number of at least 1, got None"),
        (["method.alpha=-1"], r"method\.alpha must be above 0, got -1"),
        (["method.family=lorax"], r"method\.family must be one of .*, got 'lorax'"),
        (["method.family=ia3"], r"method\.rank must be null for method\.family=ia3, got 8"),
        (["+method.options.use_dorra=true"], r"method\.options has no setting 'use_dorra'.*did you mean 'use_dora'"),
        (["+method.options.lora_dropout=0.1"], r"method\.options has no setting 'lora_dropout'"),
        (["resources.sharding=fsdp", "resources.workers=2"], r"resources\.sharding must be none for method lora"),
    ],
)
def test_what_can_not_be_is_a_sentence_before_anything_starts(
    overrides: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        execute(adapted(tmp_path, "lora", *overrides))
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())

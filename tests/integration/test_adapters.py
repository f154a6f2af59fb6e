"""Methods that put parts of their own into a model: trained, resumed, merged, evaluated, and read again by peft."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gmt.diagnostics.operations import step_flops
from gmt.errors import Interrupted, UserError
from gmt.evaluation.context import token_ids
from gmt.masking.bits import weights_sha256
from gmt.methods.adapters import PeftAdapter
from gmt.methods.prompts import PeftPrompt
from gmt.methods.protocol import ReshapesModel, UsesContext
from gmt.runs.build import Run
from gmt.runs.diagnose import finished
from gmt.runs.execute import execute
from gmt.runs.prepare import prepare
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.control import Control
from gmt.training.reshaping import Reshaping
from tests.architectures import tiny_model
from tests.arms import ARMS, method_of, num_added, overrides_of
from tests.integration.test_paradigms import preferences
from tests.integration.test_prepare import run_of

USUAL = {"lora", "pissa", "eva", "prefix_tuning"}


def each_of(arms: list[str]) -> pytest.MarkDecorator:
    """Parametrizes a test by arms; those not among the usual ones are slow."""
    return pytest.mark.parametrize(
        "arm", [pytest.param(arm, marks=[] if arm in USUAL else pytest.mark.slow) for arm in arms]
    )


ADAPTERS = [arm for arm in ARMS if isinstance(method_of(arm), ReshapesModel)]
OF_PEFT = [arm for arm in ADAPTERS if isinstance(method_of(arm), PeftAdapter | PeftPrompt)]


def adapted(root: Path, arm: str, *overrides: str) -> Run:
    settings = ("train.num_epochs=2", "record.keep_weights=true", "record.checkpoint_every=2")
    few = "task.train.words.num_examples=32"
    return run_of(root, *overrides_of(arm, root), *settings, few, *overrides)


def done(run: Run) -> dict[str, Any]:
    result: dict[str, Any] = execute(run).read("result.json")
    return result


@each_of(OF_PEFT)
def test_what_is_evaluated_is_what_peft_makes_of_the_saved_adapter(arm: str, tmp_path: Path) -> None:
    run = adapted(tmp_path / "whole", arm)
    result = done(run)
    base = run.model.load_model()
    assert 0 < result["num_added"] == result["num_trainable"] < 0.15 * result["num_parameters"]
    assert result["training"]["density"] is None
    (kept,) = run.record.folder.rglob("*.safetensors")
    assert kept.stat().st_size < 16 * result["num_added"] + 2**18  # a third of the whole weights
    loaded = PeftModel.from_pretrained(run.model.load_model(), kept.parent).eval()
    if isinstance(run.method, UsesContext):  # nothing to merge: the base, with something before each text
        assert result["moved_fraction"] == 0
        assert result["num_parameters"] == base.num_parameters() + result["num_added"]
        said = [row["answer"] for row in run.record.read_lines("answers_after.jsonl")]
        assert said == answers_of(loaded, run)
    else:
        assert 0 < result["moved_fraction"] < 1
        merged = loaded.merge_and_unload()
        assert weights_sha256(dict(merged.named_parameters())) == result["weights_sha256"]


def answers_of(model: Any, run: Run) -> list[str]:
    """Return the answers of a model of peft's to all questions, asked one by one."""
    prepared = prepare(run)
    tokenizer, texts = prepared.reader.tokenizer, []
    for part in ("target", "source"):
        for suite in prepared.suites[part].values():
            for prompt in suite.prompts:
                ids = torch.tensor([token_ids(prepared.reader, prompt)])
                how = {
                    "max_new_tokens": suite.max_new_tokens,
                    "do_sample": False,
                    "pad_token_id": tokenizer.pad_token_id,
                }
                said = model.generate(input_ids=ids, eos_token_id=tokenizer.eos_token_id, **how)[0, ids.shape[1] :]
                texts.append(tokenizer.decode(said, skip_special_tokens=True).strip())
    return texts


@each_of([arm for arm in ADAPTERS if arm not in OF_PEFT and not num_added(arm)])
def test_parameters_of_the_models_own_are_saved_by_its_names_for_them(arm: str, tmp_path: Path) -> None:
    run = adapted(tmp_path, arm)
    result, model = done(run), run.model.load_model()
    assert 0 < result["num_trainable"] < 0.15 * result["num_parameters"]
    assert (result["num_added"], 0 < result["moved_fraction"] < 1) == (0, True)
    (kept,) = run.record.folder.rglob("*.safetensors")
    saved = load_file(kept)
    assert model.load_state_dict(saved, strict=False).unexpected_keys == []
    assert sum(tensor.numel() for tensor in saved.values()) == result["num_trainable"]
    assert weights_sha256(dict(model.named_parameters())) == result["weights_sha256"]


@each_of(ADAPTERS)
def test_a_stopped_run_ends_with_the_same_bits(arm: str, tmp_path: Path) -> None:
    whole = done(adapted(tmp_path / "whole", arm))
    stopped = adapted(tmp_path / "stopped", arm)
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
    run = adapted(tmp_path, "lora", "model.dtype=bfloat16", "train.precision=bf16", "record.evaluate_every=1")
    record = execute(run)
    scores = [row["eval/target_mean"] for row in record.metrics()[0] if "eval/target_mean" in row]
    assert len(scores) > 2
    assert record.read("result.json")["after"]["target"]["mean"] == scores[-1]
    (kept,) = (record.folder / "adapter").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(kept).values()} == {torch.float32}  # the weights below are bf16


def test_operations_are_counted_with_the_adapter_in_place(tmp_path: Path) -> None:
    plain, with_adapter = (step_flops(finished(run_of(tmp_path, f"method={name}"))) for name in ("sft", "lora"))
    assert plain / 2 < with_adapter < plain  # frozen weights cost no gradient of their own


def test_keep_weights_merged_saves_whole_weights_beside_the_adapter(tmp_path: Path) -> None:
    run = adapted(tmp_path, "lora", "record.keep_weights=merged")
    result = done(run)
    whole = AutoModelForCausalLM.from_pretrained(run.record.folder / "weights")
    assert weights_sha256(dict(whole.named_parameters())) == result["weights_sha256"]
    assert (run.record.folder / "adapter" / "adapter_model.safetensors").exists()


def test_a_reference_for_preferences_is_the_model_with_its_adapter_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*preferences(tmp_path), "train.learning_rate=1e-3", "train.accumulation_steps=1", "train.num_epochs=1"]
    view = done(run_of(tmp_path / "view", "method=lora", *settings))
    monkeypatch.setattr(Reshaping, "reference", lambda self: None)
    assert done(run_of(tmp_path / "second", "method=lora", *settings))["weights_sha256"] == view["weights_sha256"]


def test_padding_and_a_cache_do_not_change_an_answer_behind_a_prefix() -> None:
    model = tiny_model("llama")
    Reshaping(PeftPrompt(name="p", family="prefix_tuning", num_tokens=3, options={}), model, seed=1)
    ids = torch.tensor([[5, 9, 33, 7]])
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.no_grad():
        stepwise = ids
        for _ in range(4):
            stepwise = torch.cat([stepwise, model(input_ids=stepwise).logits[:, -1:].argmax(-1)], dim=1)
        padded = torch.tensor([[0, 0, 5, 9, 33, 7], [1, 2, 3, 4, 5, 6]])
        together = model.generate(input_ids=padded, attention_mask=(padded > 0).long(), **how)
    assert together[0, 2:].tolist() == stepwise[0].tolist()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method.targets=[lm_head]"], r"method\.targets must not name .*lm_head"),
        (
            ["method.targets=[embed_tokens]"],
            r"method\.targets must not name .*embed_tokens, whose weight another layer has too",
        ),
        (["method.beginning=svd"], r"method\.beginning must be null, pissa_niter_N or one of .*, got 'svd'"),
        (["method=eva", "method.beginning_options=3"], r"method\.beginning_options must be a mapping of .*, got 3"),
        (["method.beginning=eva"], r"method\.num_examples must be a whole number of at least 1, got 0"),
        (
            ["method=eva", "method.num_examples=9000"],
            r"method\.num_examples must be at most \d+, .* got 9000",
        ),
        (
            ["method=lora_ga", "method.num_examples=1", "method.rank=65"],
            r"method\.rank must be at most 64, half of the smaller side of .*",
        ),
        (["method=pissa", "method.rank=129"], r"method\.rank must be at most 128, the smaller side of .*"),
        (["method=oft", "method.options.oft_block_size=33"], r"method\.options\.oft_block_size must divide the inputs"),
        (
            ["method=shira", "method.rank=1000"],
            r"method\.rank must be at most 64, since a larger rank takes more entries than .*, got 1000",
        ),
        (["method=bitfit"], r"method bitfit trains biases, .* has none: its parameters are .*down_proj\.weight"),
        (["method=prompt_tuning", "method.num_tokens=0"], r"method\.num_tokens must be a whole number of at least 1"),
        (
            ["method=prompt_tuning", "method.num_tokens=120"],
            r"train\.max_length must be at most 8, the context .* 120 tok",
        ),
        (["method=prompt_tuning", "train.packing=true"], r"train\.packing must be false for method prompt_tuning"),
        (
            ["method=prefix_tuning", "record.keep_weights=merged"],
            r"record\.keep_weights must be true or false for .*prefix",
        ),
        (
            ["method=prefix_tuning", "model.gradient_checkpointing=true"],
            r"method prefix_tuning can't work with .*checkpoin",
        ),
        (["record.keep_weights=some"], r"record\.keep_weights must be true, false or merged, got 'some'"),
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

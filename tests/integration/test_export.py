"""Exports of finished runs, read by what they are for: gmt.masking, peft and transformers."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from gmt.cli import run_command
from gmt.delta_files import load_delta
from gmt.masking import apply_delta
from gmt.masking.bits import weights_sha256
from gmt.methods.adapters import PeftAdapter
from gmt.methods.protocol import UsesContext
from gmt.models.pretrained import SHIPPED
from gmt.runs.build import Run
from gmt.runs.execute import execute
from tests.arms import method_of
from tests.integration.test_adapters import ADAPTERS, adapted
from tests.integration.test_prepare import run_of
from tests.merging import done, noise, run_with, tiny_model

KEPT = ("train.num_epochs=3", "task.train.words.num_examples=32", "record.keep_weights=true")
LINEAR = ("method=gmt_update", "method.mask_ratio=0.9", "method.exclude=['*embed*','*norm*']", "method.excluded=frozen")
TOKENS = torch.tensor([[1, 5, 9, 30, 7]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that changed a tenth of each linear layer's weight."""
    run = run_of(tmp_path_factory.mktemp("trained"), *LINEAR, *KEPT)
    execute(run)
    assert 0.05 < run.record.result().moved_fraction < 0.5
    return run


def export(run: Run, *arguments: object) -> int:
    root = f"record.root={run.record_settings.root}"
    return run_command(["export", run.id[:8], *map(str, arguments), root])


def refusal(capsys: pytest.CaptureFixture[str], run: Run, *arguments: object) -> str:
    assert export(run, *arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def sha256_of(model: Any) -> str:
    return weights_sha256(dict(model.named_parameters()))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def kept_model(run: Run) -> Any:
    return AutoModelForCausalLM.from_pretrained(run.record.folder / "weights")


def test_a_delta_makes_the_runs_weights_of_its_base_bit_for_bit(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(trained, "--delta", tmp_path / "new") == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path}/new/delta.safetensors: ")
    base = AutoModelForCausalLM.from_pretrained(SHIPPED / "nano")
    before = sha256_of(base)
    delta = load_delta(tmp_path / "new" / "delta.safetensors")
    result = trained.record.result()
    revert = apply_delta(base, delta)
    assert sha256_of(base) == result.weights_sha256
    assert torch.equal(logits(base), logits(kept_model(trained)))
    assert delta.num_entries == round(result.moved_fraction * result.num_parameters)
    apply_delta(base, revert)
    assert sha256_of(base) == before == delta.base_sha256
    with safe_open(tmp_path / "new" / "delta.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["run_id"], metadata["weights_sha256"]) == (trained.id, result.weights_sha256)
    assert "gmt" in json.loads(metadata["code"])


def test_peft_loads_the_adapter_with_the_runs_logits(trained: Run, tmp_path: Path) -> None:
    assert export(trained, "--peft", tmp_path / "adapter") == 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "SUPERTUNING"
    base = AutoModelForCausalLM.from_pretrained(SHIPPED / "nano")
    plain = logits(base)
    adapter = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert not torch.allclose(logits(kept_model(trained)), plain, atol=1e-2)
    close(logits(adapter), logits(kept_model(trained)))
    with adapter.disable_adapter():
        assert torch.equal(logits(adapter), plain)
    merged = adapter.merge_and_unload()
    for (_, one), (_, other) in zip(merged.named_parameters(), kept_model(trained).named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2**-24)  # half a unit in the last place of a weight below 1


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Assert that logits agree, but for some hundred weights that differ by half a unit in the last place."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_transformers_loads_the_folder_with_the_runs_weights(trained: Run, tmp_path: Path) -> None:
    assert export(trained, "--merged", tmp_path / "model") == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sha256_of(model) == trained.record.result().weights_sha256
    assert model.generation_config.eos_token_id == 2
    text = AutoTokenizer.from_pretrained(SHIPPED / "nano")("1 + 1 = ")["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("1 + 1 = ")["input_ids"] == text
    about = json.loads((tmp_path / "model" / "gmt_export.json").read_text())
    assert (about["run_id"], about["kind"]) == (trained.id, "merged")


def test_the_guides_examples_give_the_runs_model(trained: Run, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text()
    by_delta, by_adapter = re.findall(r"```python\n(base = .*?)```", guide, re.DOTALL)
    names: dict[str, Any] = {
        "AutoModelForCausalLM": AutoModelForCausalLM, "PeftModel": PeftModel, "apply_delta": apply_delta,
        "load_delta": load_delta, "base_path": SHIPPED / "nano", "delta_path": tmp_path / "delta.safetensors",
        "adapter_path": tmp_path / "adapter",
    }  # fmt: skip
    assert export(trained, "--delta", tmp_path, "--peft", tmp_path / "adapter") == 0
    exec(by_delta, names)
    assert sha256_of(names["base"]) == trained.record.result().weights_sha256
    exec(by_adapter, names)
    close(logits(names["adapter"]), logits(kept_model(trained)))


def test_bf16_an_untied_output_layer_and_unequal_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Layers with 0, 1, a tenth and all of their entries changed; differences of a far value round in bf16."""
    model = [*tiny_model(tmp_path / "llama"), "model.dtype=bfloat16"]

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        new = tensor.clone()
        if "lm_head" in name:
            new[0, 0] += 1
        elif "q_proj" in name:
            new.view(-1)[::10] *= 1.5
        elif "up_proj" in name:
            new *= 1.5
        return new

    run = done(run_with(tmp_path, *model), change)
    assert export(run, "--peft", tmp_path / "adapter", "--delta", tmp_path / "x.safetensors") == 0
    assert "differ from" not in capsys.readouterr().out
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.bfloat16)
    apply_delta(base, load_delta(tmp_path / "x.safetensors"))
    assert sha256_of(base) == run.record.result().weights_sha256
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.bfloat16)
    adapter = PeftModel.from_pretrained(again, tmp_path / "adapter")
    assert torch.equal(logits(adapter), logits(base))


def test_entries_whose_difference_rounds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = [*tiny_model(tmp_path / "llama"), "model.dtype=bfloat16"]
    far = noise(1)
    run = done(run_with(tmp_path, *model), lambda name, x: far(name, 0 * x) if "q_proj" in name else x)
    assert export(run, "--peft", tmp_path / "adapter") == 0
    assert "of them differ from the run's in their last bits" in capsys.readouterr().out
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for (_, one), (_, other) in zip(
        merged.named_parameters(), kept_model(run).named_parameters(), strict=True
    ):  # at most half a unit in the last place of the base, which is below 1/2
        torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-9)


def test_a_merge_of_runs_is_exported_like_a_training(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "llama")
    done(run_with(tmp_path, *model), noise(1))
    run = run_with(tmp_path, *model, "merge=wise_ft", "merge.alpha=0.3")
    execute(run)
    assert export(run, "--delta", tmp_path / "x.safetensors", "--merged", tmp_path / "model") == 0
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    apply_delta(base, load_delta(tmp_path / "x.safetensors"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sha256_of(base) == sha256_of(exported) == run.record.result().weights_sha256


def test_an_adapter_run_is_exported_as_its_adapter_and_merged(tmp_path: Path) -> None:
    run = adapted(tmp_path, "lora")
    execute(run)
    places = ("--peft", tmp_path / "adapter", "--merged", tmp_path / "model", "--delta", tmp_path / "x.safetensors")
    assert export(run, *places) == 0
    for file in (run.record.folder / "adapter").iterdir():
        assert (tmp_path / "adapter" / file.name).read_bytes() == file.read_bytes()
    bases = [AutoModelForCausalLM.from_pretrained(SHIPPED / "nano") for _ in range(2)]
    merged: Any = PeftModel.from_pretrained(bases[0], tmp_path / "adapter")
    apply_delta(bases[1], load_delta(tmp_path / "x.safetensors"))
    models = [merged.merge_and_unload(), bases[1], AutoModelForCausalLM.from_pretrained(tmp_path / "model")]
    assert {sha256_of(each) for each in models} == {run.record.result().weights_sha256}
    assert AutoTokenizer.from_pretrained(tmp_path / "model").pad_token_id == 0


OF_PEFT_ALONE = [arm for arm in ADAPTERS if isinstance(method_of(arm), PeftAdapter)]


@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(arm, marks=pytest.mark.slow if arm in OF_PEFT_ALONE else ())
        for arm in ADAPTERS
        if not isinstance(method_of(arm), UsesContext)
    ],
)
def test_parts_that_a_run_stored_alone_give_its_weights_or_are_refused_by_the_remedy(
    arm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = adapted(tmp_path, arm, "train.learning_rate=0.02")  # at which r_amt's scores fall below the threshold
    execute(run)
    assert run.record.result().moved_fraction > 0
    places = ("--merged", tmp_path / "model", "--delta", tmp_path / "x.safetensors")
    if export(run, *places) != 0:
        assert arm not in OF_PEFT_ALONE
        capsys.readouterr()
        assert "anew with record.keep_weights=merged" in refusal(capsys, run, *places)
        assert not (tmp_path / "model").exists()
        return
    base = run.model.load_model()
    apply_delta(base, load_delta(tmp_path / "x.safetensors"))
    models = [base, AutoModelForCausalLM.from_pretrained(tmp_path / "model")]
    assert {sha256_of(each) for each in models} == {run.record.result().weights_sha256}


def test_an_adapter_with_parts_beside_it_is_not_taken_for_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """spt trains LoRAs, single entries and vectors."""
    settings = ("train.learning_rate=0.05", "method.matrix_factor=10", "method.vector_factor=32")
    runs = [adapted(tmp_path / keep, "spt", *settings, f"record.keep_weights={keep}") for keep in ("true", "merged")]
    for run in runs:
        execute(run)
        kept = {file.name for file in (run.record.folder / "adapter").glob("*.safetensors")}
        assert kept > {"adapter_model.safetensors"}
    assert "anew with record.keep_weights=merged" in refusal(capsys, runs[0], "--peft", tmp_path / "adapter")
    assert "changed model." in refusal(capsys, runs[1], "--peft", tmp_path / "adapter")  # the norms, which peft lacks
    assert not (tmp_path / "adapter").exists()


def test_a_run_with_vectors_before_the_text_is_exported_as_its_adapter_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = adapted(tmp_path, "prompt_tuning")
    execute(run)
    for kind in ("--delta", "--merged"):
        assert "changed no weights: `gmt export RUN --peft FOLDER`" in refusal(capsys, run, kind, tmp_path / "x")
    assert export(run, "--peft", tmp_path / "adapter") == 0
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(SHIPPED / "nano"), tmp_path / "adapter")
    assert not (tmp_path / "x").exists()


def test_only_force_replaces_files_and_only_folders_that_are_exports(
    trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, foreign = tmp_path / "x.safetensors", tmp_path / "model", tmp_path / "own"
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert refusal(capsys, trained, "--delta", file) == (
        f"{file} exists already: name another place, or add --force to replace it"
    )
    assert file.read_text() == "mine"
    assert export(trained, "--delta", file, "--force", "--merged", folder) == 0
    (folder / "config.json").write_text("{}")
    assert "exists already" in refusal(capsys, trained, "--merged", folder)
    assert export(trained, "--merged", folder, "--force") == 0
    assert sha256_of(AutoModelForCausalLM.from_pretrained(folder)) == trained.record.result().weights_sha256
    for kind in ("--merged", "--peft"):
        assert "is not an export, since it lacks" in refusal(capsys, trained, kind, foreign, "--force")
        assert "is not a folder" in refusal(capsys, trained, kind, file, "--force")
    record = trained.record.folder
    assert "outside of the run records" in refusal(capsys, trained, "--delta", record / "weights", "--force")
    assert (foreign / "thesis.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "model", "own"}


def test_an_export_that_breaks_leaves_nothing(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    assert export(trained, "--merged", target) == 0
    before = (target / "model.safetensors").stat().st_mtime_ns

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gmt.runs.export.shutil.copyfile", full)
    assert export(trained, "--merged", target, "--force") == 1
    assert export(trained, "--merged", tmp_path / "other") == 1
    assert (target / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_runs_that_can_not_be_exported_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path / "llama")
    run = run_with(tmp_path, *model)
    place = tmp_path / "x"
    assert refusal(capsys, run, "--delta", place).startswith("no run below")
    run.record.create(run.science, run.config)
    assert "can't be exported, since it is not done (interrupted)" in refusal(capsys, run, "--delta", place)
    done(run, noise(1))
    assert refusal(capsys, run) == "gmt export needs --delta FILE, --peft FOLDER or --merged FOLDER"
    said = refusal(capsys, run, "--peft", place)
    assert "holds the weights of linear layers that are not tied" in said
    assert "changed model.embed_tokens.weight and 5 others: export it by --delta or --merged" in said
    weights = run.record.folder / "weights" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for kind in ("--delta", "--merged", "--peft"):
        assert "must hold the weights that its run ended with" in refusal(capsys, run, kind, place)
    weights.unlink()
    assert "it stored no weights (record.keep_weights=false)" in refusal(capsys, run, "--merged", place)
    weights.write_bytes(whole)
    tiny_model(tmp_path / "llama", seed=1)
    assert "was trained from other files than model llama has now" in refusal(capsys, run, "--delta", place)
    run.record.write("result.json", dataclasses.replace(run.record.result(), moved_fraction=0.5).to_json())
    assert "was changed since it ended" in refusal(capsys, run, "--delta", place)
    assert not place.exists()


def test_a_run_that_changed_nothing_has_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = done(run_with(tmp_path, *tiny_model(tmp_path / "llama")), lambda _, tensor: tensor)
    assert "changed no weights, so that an adapter of it" in refusal(capsys, run, "--peft", tmp_path / "x")
    assert export(run, "--delta", tmp_path / "x") == 0
    assert load_delta(tmp_path / "x" / "delta.safetensors").num_entries == 0

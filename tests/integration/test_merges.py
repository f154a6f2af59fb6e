"""Merges of finished runs: their weights, their records, interruptions and refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from gmt.errors import Interrupted, RunFailed, UserError
from gmt.runs.build import Run, build
from gmt.runs.execute import execute
from gmt.runs.workers import execute_on_worker
from gmt.training.control import Control
from tests.merging import base_of, done, noise, run_with, tiny_model, weights_of
from tests.processes import in_ranks


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    return tiny_model(tmp_path / "llama")


def merged(root: Path, *overrides: str) -> Run:
    run = run_with(root, *overrides)
    assert execute(run).state() == "done"
    return run


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_wise_ft_runs_from_the_base_to_its_parent_bit_for_bit(tmp_path: Path, model: list[str]) -> None:
    parent = done(run_with(tmp_path, *model), noise(1))
    for alpha, expected in ((0, base_of(parent)), (1, weights_of(parent))):
        run = merged(tmp_path, *model, "merge=wise_ft", f"merge.alpha={alpha}")
        assert run.parent_ids == (parent.id,)
        assert_same(weights_of(run), expected)
    assert run.record.result().weights_sha256 == parent.record.result().weights_sha256


def test_a_merge_is_a_run_like_any_other(tmp_path: Path, model: list[str]) -> None:
    parent = done(run_with(tmp_path, *model), noise(1))
    run = merged(tmp_path, *model, "merge=wise_ft")
    result = run.record.result()
    assert (result.training, result.target_density, result.num_train_examples, result.num_trainable) == (
        None,
        None,
        0,
        0,
    )
    assert result.moved_fraction > 0.9
    assert [row["step"] for row in run.record.metrics()[0]] == [0, 1]
    assert (run.record.folder / "answers_after.jsonl").exists()
    assert not (run.record.folder / "evaluation").exists()
    assert {run.id, parent.id} == {path.name for path in run.record.folder.parent.iterdir()}
    stamp = (run.record.folder / "result.json").stat().st_mtime_ns
    execute(run)
    assert (run.record.folder / "result.json").stat().st_mtime_ns == stamp


def test_bfloat16_is_computed_in_float32_and_rounded_once(tmp_path: Path, model: list[str]) -> None:
    bf16 = [*model, "model.dtype=bfloat16"]
    parent = done(run_with(tmp_path, *bf16), noise(1))
    run = merged(tmp_path, *bf16, "merge=wise_ft", "merge.alpha=0.3")
    base, tuned = base_of(parent), weights_of(parent)
    by_hand = {name: base[name].float().lerp(tuned[name].float(), 0.3).bfloat16() for name in base}
    assert_same(weights_of(run), by_hand)
    rounded_twice = {name: base[name] + (0.3 * (tuned[name] - base[name])) for name in base}
    assert any(not torch.equal(rounded_twice[name], by_hand[name]) for name in base)


def test_parents_are_named_by_their_ids(tmp_path: Path, model: list[str]) -> None:
    parents = [done(run_with(tmp_path, *model, f"seed={seed}"), noise(seed)) for seed in (1, 2, 3)]
    ids = ",".join(f"'{parent.id}'" for parent in parents)
    run = merged(tmp_path, *model, "merge=soup", f"parents=[{ids}]")
    expected = {
        name: torch.stack([weights_of(parent)[name] for parent in parents]).double().mean(0).float()
        for name in weights_of(run)
    }
    assert_same(weights_of(run), expected)
    other = run_with(tmp_path, *model, "merge=soup", f"parents=['{parents[0].id}','{parents[1].id}']")
    assert other.id != run.id


def test_a_merge_of_a_merge(tmp_path: Path, model: list[str]) -> None:
    parent = done(run_with(tmp_path, *model), noise(1))
    half = merged(tmp_path, *model, "merge=wise_ft", "merge.alpha=0.5")
    run = merged(tmp_path, *model, "merge=wise_ft", "merge.alpha=1", f"parents=['{half.id}']")
    assert_same(weights_of(run), weights_of(half))
    assert run.id not in (half.id, parent.id)


def do_on_worker(configs: list[dict[str, Any]], folder: Path) -> None:
    """Do runs one after another, as one of two workers."""
    for config in configs:
        execute_on_worker(build(config), folder / "nobody-stops")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_parents_that_two_workers_trained_are_merged_as_those_of_one(
    sharding: str, tmp_path: Path, model: list[str]
) -> None:
    """The workers add up gradients in another order, which changes last bits; a wrong batch changes as much as all."""
    few = ["task.train.words.num_examples=32", "train.micro_batch_size=4", "train.accumulation_steps=2"]
    runs: dict[str, list[Run]] = {}
    for name, workers in (("one", []), ("two", ["resources.workers=2", f"resources.sharding={sharding}"])):
        settings = [*model, *few, *workers, "train.num_epochs=1"]
        parents = [run_with(tmp_path / name, *settings, f"seed={seed}") for seed in (1, 2)]
        ids = ",".join(f"'{parent.id}'" for parent in parents)
        runs[name] = [*parents, run_with(tmp_path / name, *settings, "merge=soup", f"parents=[{ids}]")]
    for run in runs["one"]:
        execute(run)
    assert in_ranks(do_on_worker, 2, [dict(run.config) for run in runs["two"]], tmp_path) == [0, 0]
    for one, two in zip(runs["one"], runs["two"], strict=True):
        assert (two.id, two.record.state()) == (one.id, "done")
        found, expected, start = weights_of(two), weights_of(one), base_of(one)
        off = sum(float((found[name] - expected[name]).square().sum()) for name in start) ** 0.5
        moved = sum(float((expected[name] - start[name]).square().sum()) for name in start) ** 0.5
        assert moved > 0
        assert off < 0.1 * moved
    mean = {n: torch.stack([weights_of(p)[n] for p in runs["two"][:2]]).double().mean(0).float() for n in start}
    assert_same(weights_of(runs["two"][2]), mean)


def test_an_interrupted_merge_ends_with_the_same_bits(tmp_path: Path, model: list[str]) -> None:
    runs = []
    for name in ("whole", "stopped"):
        done(run_with(tmp_path / name, *model), noise(1))
        runs.append(run_with(tmp_path / name, *model, "merge=dare"))
    execute(runs[0])
    num_calls = 0

    def should_stop() -> bool:
        nonlocal num_calls
        num_calls += 1
        return num_calls == 15  # while tensors are merged

    with pytest.raises(Interrupted, match="while weights were merged"):
        execute(runs[1], Control(should_stop=should_stop))
    assert runs[1].record.state() == "interrupted"
    assert not (runs[1].record.folder / "weights").exists()
    execute(runs[1])
    assert_same(weights_of(runs[0]), weights_of(runs[1]))
    assert [row["step"] for row in runs[1].record.metrics()[0]] == [0, 1]


def test_a_transfer_adds_the_delta_to_another_base(tmp_path: Path, model: list[str]) -> None:
    parent = done(run_with(tmp_path, *model), noise(1))
    other = tiny_model(tmp_path / "newer", seed=5, rows=3)
    run = merged(tmp_path, *other, "merge=transfer", "merge.scale=0.5", f"parents=['{parent.id}']")
    new, old, tuned = base_of(run), base_of(parent), weights_of(parent)
    for name, tensor in weights_of(run).items():
        rows = len(old[name])
        assert torch.equal(tensor[:rows], new[name][:rows].add(tuned[name] - old[name], alpha=0.5))
        assert torch.equal(tensor[rows:], new[name][rows:])
    assert new["lm_head.weight"].shape[0] == old["lm_head.weight"].shape[0] + 3


VALIDATION = (
    "merge=greedy_soup",
    "merge.validation={words: {_target_: gmt.tasks.reasoning_gym.Family, family: spell_backward, num_examples: 4, "
    "data_seed: SEED, settings: {min_word_len: 3, max_word_len: 5}, max_new_tokens: 4}}",
)


def test_a_greedy_soup_scores_on_its_own_questions_and_logs_the_chosen_parents(
    tmp_path: Path, model: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gmt.runs import merge_stage

    parents = [done(run_with(tmp_path, *model, f"seed={seed}"), noise(seed)) for seed in (1, 2, 3)]
    ids = ",".join(f"'{parent.id}'" for parent in parents)
    run = run_with(tmp_path, *model, *(text.replace("SEED", "7") for text in VALIDATION), f"parents=[{ids}]")
    assert "reasoning-gym" in run.science["fingerprints"]["merge"]
    scores = iter([0.1, 0.4, 0.2, 0.5, 0.3])  # of each alone, then of 1 with 2, and of both with 0
    real = merge_stage.evaluate

    def evaluate(*arguments: Any, parts: tuple[str, ...]) -> Any:
        found = real(*arguments, parts=parts)
        return dataclasses.replace(found, scores={"validation": {"mean": next(scores)}})

    with monkeypatch.context() as patch:
        patch.setattr(merge_stage, "evaluate", evaluate)
        execute(run)
    by_hand = {
        name: (weights_of(parents[1])[name].double() + weights_of(parents[2])[name]).div(2).float()
        for name in weights_of(run)
    }
    assert_same(weights_of(run), by_hand)
    logged = {key: value for row in run.record.metrics()[0] for key, value in row.items()}
    assert [logged[f"merge/parent_{number}/taken"] for number in range(3)] == [0, 1, 1]
    assert [logged[f"merge/parent_{number}/validation"] for number in range(3)] == [0.1, 0.4, 0.2]


def test_validation_questions_of_the_target_are_refused(tmp_path: Path, model: list[str]) -> None:
    parents = [done(run_with(tmp_path, *model, f"seed={seed}"), noise(seed)) for seed in (1, 2)]
    ids = ",".join(f"'{parent.id}'" for parent in parents)
    settings = [
        text.replace("SEED", "1000003").replace("3, max_word_len: 5", "8, max_word_len: 10") for text in VALIDATION
    ]
    with pytest.raises(
        UserError, match=r"must have no question of the target, .* 4 of its 4 questions are in the target"
    ):
        execute(run_with(tmp_path, *model, *settings, f"parents=[{ids}]"))


def test_changed_weights_of_a_parent_are_refused(tmp_path: Path, model: list[str]) -> None:
    parent = done(run_with(tmp_path, *model), noise(1))
    path = parent.record.folder / "weights" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    run = run_with(tmp_path, *model, "merge=wise_ft")
    with pytest.raises(
        UserError, match=rf"{parent.id}/weights must hold the weights that its run ended with, and does not"
    ):
        execute(run)
    assert run.record.state() == "failed"
    path.write_bytes(whole)
    assert execute(run).state() == "done"


def test_a_merge_with_infinite_weights_diverges(tmp_path: Path, model: list[str]) -> None:
    done(run_with(tmp_path, *model), lambda _, tensor: tensor + 1e38)
    run = run_with(tmp_path, *model, "merge=dare", "merge.fraction=0.9")
    with pytest.raises(RunFailed, match="hold NaN or Inf"):
        execute(run)
    assert run.record.state() == "diverged"


def test_the_parent_must_be_done_and_have_its_weights(tmp_path: Path, model: list[str]) -> None:
    run = run_with(tmp_path, *model, "merge=wise_ft")

    def refused(sentence: str, other: Run = run) -> None:
        with pytest.raises(UserError, match=sentence):
            execute(other)
        assert not other.record.exists()

    needs = rf"merge=wise_ft needs the weights of run {run.parent_ids[0]}, "
    refused(f"{needs}which has no record; execute it first, by the same command without merge")
    parent = run_with(tmp_path, *model)
    parent.record.create(parent.science, parent.config)
    parent.record.set_status("failed")
    refused(rf"{needs}which is not done \(failed\); execute it first")
    done(parent, noise(1))
    weights = parent.record.folder / "weights"
    weights.rename(weights.with_name("away"))
    refused(f"{needs}which saved no weights: delete .* run it anew with record.keep_weights=true")
    weights.with_name("adapter").mkdir()
    refused(f"{needs}which saved only its adapter: delete .* record.keep_weights=merged")
    refused(
        "which has no record; parents must name finished runs",
        run_with(tmp_path, "merge=wise_ft", f"parents=[a{'0' * 15}]"),
    )


def test_a_parent_of_another_model_is_refused(tmp_path: Path, model: list[str]) -> None:
    parent = done(run_with(tmp_path, *model), noise(1))
    for name, settings, sentence in (
        (
            "other",
            {"seed": 3},
            "needs parents that were trained from its own model other, and run .* was trained from llama",
        ),
        (
            "wide",
            {"hidden_size": 32},
            r"of the architecture of its own model wide, and model.embed_tokens.weight has .*",
        ),
        (
            "deep",
            {"num_hidden_layers": 3},
            r"model\.layers\.2\.\S+ has the shape \(.*\) in this model and None in the model of run",
        ),
    ):
        merge = "wise_ft" if name == "other" else "transfer"
        run = run_with(tmp_path, *tiny_model(tmp_path / name, **settings), f"merge={merge}", f"parents=['{parent.id}']")
        with pytest.raises(UserError, match=sentence):
            execute(run)
        assert not run.record.exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["merge=soup"], "merge=soup needs at least 2 parents, got 1"),
        (["merge=wise_ft", f"parents=[{'a' * 16},{'b' * 16}]"], "merge=wise_ft takes at most 1 parent, got 2"),
        (["merge=soup", f"parents=[{'a' * 16},{'a' * 16}]"], "parents must name each run once, got a{16} twice"),
        (["merge=soup", "parents=[sft,gmt]"], "parents must hold run ids, .* got 'sft'"),
        (["merge=soup", "parents=[1234567890123456]"], "parents must hold run ids, .* got 1234567890123456"),
        (["merge=soup", "parents=all"], "parents must be null or a list of run ids, got 'all'"),
        ([f"parents=[{'a' * 16}]"], "parents must be null without a merge, got a{16}"),
        (["merge=wise_ft", "search=asha", "record.evaluate_every=1"], "merge=wise_ft can't go with search"),
        (["merge=wise_ft", "merge.alpha=2"], r"merge.alpha must lie in \[0, 1\], got 2"),
        (["merge=nothing"], "there is no merge 'nothing'; choices: dare, drop"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run_with(tmp_path, *overrides)

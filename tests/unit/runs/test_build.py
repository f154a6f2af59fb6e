"""Config to checked objects: every fault is found, and named as the user knows it."""

from collections.abc import Iterator
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.records.identity import OPTIONAL_GROUPS, run_id
from gmt.runs.build import Builder, build


@pytest.fixture
def config() -> Iterator[dict[str, Any]]:
    with hydra_on(None):
        yield Composer().compose_plain([])


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan"), "abc", True, None])
def test_a_mask_ratio_outside_its_interval_is_refused(config: dict[str, Any], ratio: object) -> None:
    config["method"]["mask_ratio"] = ratio
    with pytest.raises(UserError, match=r"method\.mask_ratio must lie in \[0, 1\), got"):
        build(config)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("max_new_tokens", 0, "task.source.facts: max_new_tokens must be a whole number of at least 1, got 0"),
        ("data", {}, "task.source.facts: data must hold exactly"),
        ("typo", 1, "task.source.facts has no setting 'typo'"),
        ("_target_", "gmt.Nothing", "task.source.facts._target_ names no class"),
    ],
)
def test_a_fault_of_an_evaluation_is_named_where_the_task_holds_it(key: str, value: object, sentence: str) -> None:
    with hydra_on(None):
        config = Composer().compose_plain(["task=chain_sum"])
    config["task"]["source"]["facts"][key] = value
    with pytest.raises(UserError) as caught:
        build(config)
    assert any(each.startswith(sentence) for each in caught.value.sentences)


def test_independent_faults_are_shown_together(config: dict[str, Any]) -> None:
    config["seed"] = -1
    config["train"]["num_epochs"] = 0
    config["task"]["train"]["long_words"]["num_examples"] = 0
    config["method"] |= {"mask_ratio": 2, "typo": 1}
    with pytest.raises(UserError) as caught:
        build(config)
    text = str(caught.value)
    expected = ("seed", "train.num_epochs", "task.train.long_words.num_examples", "method has no setting 'typo'")
    assert all(part in text for part in expected)


@pytest.mark.parametrize(
    ("group", "key", "value", "sentence"),
    [
        ("model", "path", "./nowhere", "is not a folder"),
        ("model", "path", "shipped:nanoo", "did you mean 'nano'"),
        ("model", "path", ".", r"lacks config\.json"),
        ("task", "_target_", "gmt.tasks.nothing.Task", "names no class"),
        ("train", "precision", "fp8", "must be one of fp32, bf16"),
        ("resources", "device", "tpu", "must be one of auto, cpu, cuda"),
        ("resources", "workers", 0, "a whole number of at least 1"),
        ("resources", "workers", 3, "must divide train.accumulation_steps=2, since .* got 3"),
        ("resources", "sharding", "zero", "must be one of none, fsdp"),
        ("resources", "sharding", "fsdp", "must be none for resources.workers=1, got 'fsdp'"),
        ("record", "root", "/dev/null/here", "a folder that can be written"),
        ("task", "train", {}, "must name at least one family"),
        *(
            (group, "name", "", rf"{group}\.name must be a text that is not empty")
            for group in ("model", "task", "method")
        ),
        ("method", "name", 3, r"method\.name must be a text .* got 3; on the command line such a text is written"),
    ],
)
def test_a_wrong_setting_is_named(config: dict[str, Any], group: str, key: str, value: object, sentence: str) -> None:
    config[group][key] = value
    with pytest.raises(UserError, match=sentence):
        build(config)


def test_an_unknown_and_a_missing_group_are_named(config: dict[str, Any]) -> None:
    config["metod"] = config.pop("method")
    with pytest.raises(UserError, match=r"'metod'; did you mean 'method'") as caught:
        build(config)
    assert "lacks 'method'" in str(caught.value)


def test_the_id_ignores_record_resources_and_tracking(config: dict[str, Any]) -> None:
    before = build(config).id
    config["record"]["log_every"] = 3
    config["resources"] |= {"cpus": 2, "workers": 2, "sharding": "fsdp"}
    config["tracking"]["uri"] = None
    assert build(config).id == before


@pytest.mark.parametrize("group", OPTIONAL_GROUPS)
def test_a_group_that_is_null_or_not_there_leaves_the_run_id_as_it_was(config: dict[str, Any], group: str) -> None:
    with_null = build(config | {group: None})
    without = build({key: value for key, value in config.items() if key != group})
    assert with_null.id == without.id
    assert group not in with_null.science
    with pytest.raises(UserError, match=rf"^{group}(\._target_ names no class| must be null or a list)"):
        build(config | {group: {"_target_": "gmt.Nothing"}})


def test_runs_that_share_parts_have_the_ids_that_their_science_hashes_to() -> None:
    with hydra_on(None):
        composer = Composer()
        overrides = [["method.mask_ratio=0.5", f"seed={seed}"] for seed in (1, 2)]
        configs = [composer.compose_plain(own) for own in (*overrides, ["method.mask_ratio=0.25", "seed=1"])]
    builder = Builder()
    runs = [builder.build(config) for config in configs]
    assert runs[0].method is runs[1].method is not runs[2].method
    assert [run.id for run in runs] == [run_id(run.science) for run in runs] == [build(c).id for c in configs]
    assert len({run.id for run in runs}) == len(runs)

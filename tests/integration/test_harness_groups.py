"""Groups of lm-eval, whose members ask subsets of one dataset, from datasets' cache as on a node without a network."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from lm_eval.tasks import TaskManager

from gmt.composition import Composer, hydra_on
from gmt.runs.build import plug_in
from tests.integration.test_harness import evaluation_inputs

pytestmark = pytest.mark.slow

Keep = Callable[[str, str, dict[str, list[dict[str, Any]]]], None]


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keep:
    """Puts splits of a subset into the cache as loading them from the hub would have; there is no network."""
    cache = tmp_path / "datasets"
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)

    def kept(repo: str, subset: str, splits: dict[str, list[dict[str, Any]]]) -> None:
        dataset, parquet = repo.split("/")[1], tmp_path / repo / subset
        parquet.mkdir(parents=True)
        for split, rows in splits.items():
            Dataset.from_list(rows).to_parquet(str(parquet / f"{split}.parquet"))
        files = {split: str(parquet / f"{split}.parquet") for split in splits}
        folder = cache / repo.replace("/", "___") / subset / "0.0.0" / "hash"
        folder.mkdir(parents=True)
        loaded = load_dataset("parquet", name=f"{dataset}_{subset}", data_files=files)
        for split, table in loaded.items():
            made = Path(table.cache_files[0]["filename"])
            shutil.copy(made, folder / f"{dataset}-{split}.arrow")
            info = json.loads((made.parent / "dataset_info.json").read_text())
        info |= {"dataset_name": dataset, "config_name": subset}
        for split in info["splits"].values():
            split["dataset_name"] = dataset
        (folder / "dataset_info.json").write_text(json.dumps(info))

    return kept


def benchmark(name: str, **changes: Any) -> Any:
    with hydra_on(None):
        config = Composer().compose_plain([f"+benchmark@task.target.asked={name}"])
    return plug_in("task.target.asked", config["task"]["target"]["asked"] | changes)


def subsets_of(group: str) -> list[str]:
    """The subsets that a group's tasks ask, which lie beside it in lm-eval."""
    index = TaskManager().task_index
    tasks = [entry for entry in index.values() if entry.yaml_path and "dataset_name" in entry.cfg]
    return [task.cfg["dataset_name"] for task in tasks if task.yaml_path.parent == index[group].yaml_path.parent]


def test_mmlu(keep: Keep, tmp_path: Path) -> None:
    question = {"question": "Which is a letter?", "choices": ["1", "2", "3", "b"], "answer": 3}
    subsets = subsets_of("mmlu")
    assert len(subsets) == 57
    for subset in subsets:
        keep("cais/mmlu", subset, {"test": [question] * (2 if subset == "virology" else 1), "dev": [question]})
    made, given = benchmark("mmlu"), evaluation_inputs(tmp_path / "s")
    made.check(given)
    used = made.used_files()
    assert used.keys() == {f"mmlu_{subset}" for subset in subsets}
    assert {path.name for path in used["mmlu_virology"].files} == {"mmlu-test.arrow", "mmlu-dev.arrow"}
    score = made.evaluate(given)
    assert score.metric == "acc"
    assert len(score.answers) == 58
    assert score.value == pytest.approx(
        sum(row["score"] for row in score.answers) / 58
    )  # each question weighs the same
    assert {row["task"] for row in score.answers} == {f"mmlu_{subset}" for subset in subsets}


def test_big_bench_hard(keep: Keep, tmp_path: Path) -> None:
    subsets = subsets_of("bbh_cot_fewshot")
    assert len(subsets) == 27
    for subset in subsets:
        keep("SaylorTwift/bbh", subset, {"test": [{"input": "not True is", "target": "False"}]})
    given = evaluation_inputs(tmp_path / "s")
    given.model.config.max_position_embeddings = 16_384  # three worked examples, and a letter is a token of nano
    given = dataclasses.replace(given, context=16_384)
    made = benchmark("bbh", max_new_tokens=4)
    made.check(given)
    score = made.evaluate(given)
    assert (score.metric, score.value) == ("exact_match", 0.0)
    assert len(score.answers) == 27
    assert all("Let's think step by step" in row["prompt"] for row in score.answers)

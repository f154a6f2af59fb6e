"""A tuned comparison as users start it: one budget for all, compared at what was found, reported without the trials."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONF, Gmt
from tests.processes import wait_for
from tests.warm import start_gmt

STUDY = ("study=tiny_tuned", "tracking=none", "--config-dir", str(CONF))


def records(root: Path, name: str) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in root.glob(f"gmt-results/runs/*/{name}")}


def rate(config: dict[str, Any]) -> float:
    return float(config["config"]["train"]["learning_rate"])


@pytest.mark.slow
def test_every_arm_is_tuned_alike_and_compared_at_its_best(gmt: Gmt, tmp_path: Path) -> None:
    early = gmt("report", *STUDY, "--dirty")
    assert (early.returncode, "0 of 8 runs that tune train.learning_rate are done" in early.stderr) == (2, True)

    done = gmt("sweep", *STUDY, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    configs, results = records(tmp_path, "config.json"), records(tmp_path, "result.json")
    assert len(results) == 2 * 4 + 2 * 2
    for method in ("sft", "gmt"):
        own = {id_: c for id_, c in configs.items() if c["config"]["method"]["name"] == method}
        tried = {
            rate(c): results[id_]["after"]["target"]["mean"] for id_, c in own.items() if c["config"]["seed"] == 11
        }
        compared = {rate(c) for c in own.values() if c["config"]["seed"] in (1, 2)}
        assert len(tried) == 4
        assert len(compared) == 1
        assert tried[compared.pop()] == max(tried.values())

    planned = gmt("plan", *STUDY)
    assert planned.stdout.count("4 of 4") == 2
    assert "12 done" in planned.stdout
    again = gmt("sweep", *STUDY)
    assert (again.returncode, "nothing to do" in again.stdout) == (0, True)

    reported = gmt("report", *STUDY, "--dirty")
    assert reported.returncode == 0, reported.stderr
    folder = tmp_path / "gmt-results/studies/tiny_tuned/report"
    with (folder / "runs.csv").open() as file:
        assert sorted((row["arm"], row["seed"]) for row in csv.DictReader(file)) == [
            ("gmt", "1"),
            ("gmt", "2"),
            ("sft", "1"),
            ("sft", "2"),
        ]
    assert "by 4 of 4 runs between 0.0001 and 0.1" in (folder / "index.html").read_text()


POINTS = ("study=tiny_tuned_points", "tracking=none", "hydra/launcher=basic", "--config-dir", str(CONF))


@pytest.mark.slow
def test_a_killed_sweep_tunes_each_point_on_several_seeds_and_merges_at_its_values(gmt: Gmt, tmp_path: Path) -> None:
    sweep = start_gmt(("sweep", *POINTS), tmp_path, tmp_path / "out", tmp_path / "out")
    wait_for(lambda: len(records(tmp_path, "result.json")) >= 5 or not sweep.is_alive(), 300)
    sweep.kill()
    sweep.join()
    assert 5 <= len(records(tmp_path, "result.json")) < 12, (tmp_path / "out").read_text()

    done = gmt("sweep", *POINTS, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    configs, results = records(tmp_path, "config.json"), records(tmp_path, "result.json")
    assert len(results) == 3 * 2 * 2 + 3 + 2 + 1
    trained = {id_: c for id_, c in configs.items() if c["config"].get("merge") is None}
    for ratio in (None, 0.5, 0.9):
        own = {id_: c for id_, c in trained.items() if c["config"]["method"].get("mask_ratio") == ratio}
        tried: dict[float, list[tuple[float, float]]] = {}
        for id_, config in own.items():
            if config["config"]["seed"] in (11, 12):
                score = results[id_]["after"]["target"]["mean"], results[id_]["forgetting"]
                tried.setdefault(rate(config), []).append(score)
        assert sorted(map(len, tried.values())) == [2, 2]
        within = {value: sum(t for t, _ in both) for value, both in tried.items() if sum(f for _, f in both) / 2 <= 0.3}
        (chosen,) = {rate(c) for c in own.values() if c["config"]["seed"] == 1}
        assert within[chosen] == max(within.values())
        label = "sft" if ratio is None else f"gmt mask_ratio={ratio}"
        assert f"tuned {label}: train.learning_rate {chosen:g}, by 4 of 4 runs" in done.stdout
    merges = [c["config"] for c in configs.values() if c["config"].get("merge") is not None]
    assert sorted(c["merge"]["name"] for c in merges) == ["soup"] + ["wise_ft"] * 2
    assert {c["seed"] for c in merges} == {1}

    planned = gmt("plan", *POINTS)
    assert (planned.stdout.count("4 of 4"), "18 done" in planned.stdout) == (3, True)
    assert "Tuning takes 12 runs for 3 choices, on seeds 11, 12." in planned.stdout
    reported = gmt("report", *POINTS, "--dirty")
    assert reported.returncode == 0, reported.stderr
    page = (tmp_path / "gmt-results/studies/tiny_tuned_points/report/index.html").read_text()
    assert page.count("; chosen again in ") == 3
    assert "in a resample of the 2 tuning seeds and of the tuning&#39;s questions if the same rule chooses it" in page

"""A tuned comparison as users start it: one budget for all, compared at what was found, reported without the trials."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CONF, Gmt

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

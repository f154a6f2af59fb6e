"""Loss of right answers, divergence from the base and the size of the change, from a run's start to the table."""

from pathlib import Path

import pytest

from gmt.axis import Axis
from gmt.runs.execute import execute
from gmt.tracking.suite_scores import read_suites
from gmt.tracking.table import read_table
from tests.integration.test_selections import run_of, tiny

MEASURES = [f"+benchmark@task.{part}.{name}={name}" for part in ("target", "source") for name in ("nll", "kl")]
ON_THE_WAY = ["train.accumulation_steps=1", "record.evaluate_every=2", "record.evaluate_source=true"]


def test_a_run_measures_losses_divergences_and_its_change_and_asks_the_source_on_the_way(tmp_path: Path) -> None:
    run = run_of(tmp_path, *tiny(*MEASURES, *ON_THE_WAY))
    record = execute(run)
    result = record.result()
    (row,) = read_table([("sft", "sft seed=1", record)], axis=Axis(), dirty=True).to_dict("records")
    assert row["state"] == "done"
    for part in ("target", "source"):
        assert set(result.after[part]) == {"words", "mean"}
        assert row[f"{part}_nll_after"] == result.metrics["after"][f"eval/{part}/nll_nll"] > 0
        assert row[f"{part}_nll_before"] != row[f"{part}_nll_after"]
        assert result.metrics["before"][f"eval/{part}/kl_kl"] == pytest.approx(0, abs=1e-6)
        assert row[f"{part}_kl"] > 1e-3
    assert (row["trained_fraction"], row["touched_fraction"]) == (1, 1)
    assert 0.99 < row["moved_fraction"] <= 1
    assert 0 < row["relative_delta_norm"] < 1 < row["delta_norm"]
    assert {"nll", "kl", "exact_match"} == set(read_suites([("sft", "", record)], axis=Axis())["metric"])
    on_the_way = [
        row for row in record.metrics()[0] if "eval/source_mean" in row and 0 < row["step"] < result.num_steps
    ]
    assert [row["step"] for row in on_the_way] == [2, 4]
    assert all({"eval/target_mean", "eval/source/nll_nll", "eval/source/kl_kl"} <= set(row) for row in on_the_way)
    plain = execute(run_of(tmp_path / "plain", *tiny(*MEASURES, ON_THE_WAY[0])))
    assert (plain.id, plain.result().weights_sha256) == (record.id, result.weights_sha256)

"""Evaluations of finished runs, a row for each."""

from dataclasses import replace
from pathlib import Path

from gmt.axis import Axis
from gmt.tracking.suite_scores import COLUMNS, read_suites
from tests.finished import finish, plan_of


def test_suites_stand_apart_with_their_metrics(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"gmt": {"method": "gmt", "method.mask_ratio": 0.5}}, [1, 2])
    for planned in plan.runs:
        finish(planned, 0.7)
    record, values = plan.runs[0].record, {"source/spelling_exact_match": 0.9, "source/addition_exact_match": 0.8}
    values |= {"target/long_words_exact_match": 0.5, "source/spelling_loss_nll": 2.0, "source_mean": 0.85}
    before = {f"eval/{name}": value for name, value in values.items()}
    scores = {"target": {"long_words": 0.5, "mean": 0.5}, "source": {"spelling_loss": 1.0, "mean": 0.85}}
    metrics = {"before": before, "after": {name: value / 2 for name, value in before.items()}}
    record.write("result.json", replace(record.result(), metrics=metrics, after=scores).to_json())
    record.finish()
    plan.runs[1].record.set_status("failed")
    table = read_suites(((p.point.arm, p.point.label, p.record) for p in plan.runs), axis=Axis())
    assert list(table.columns) == list(COLUMNS)
    assert sorted(table[["part", "suite", "metric", "before", "after"]].to_numpy().tolist()) == [
        ["source", "addition", "exact_match", 0.8, 0.4],
        ["source", "spelling", "exact_match", 0.9, 0.45],
        ["source", "spelling_loss", "nll", 2.0, 1.0],
        ["target", "long_words", "exact_match", 0.5, 0.25],
    ]
    assert set(table["seed"]) == {1}
    assert (table["axis"] == 0.5).all()

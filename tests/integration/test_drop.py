"""A finished run is evaluated with part of its delta dropped, once."""

from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.runs import drop as dropping
from gmt.runs.drop import SMALLEST, drop
from gmt.runs.execute import execute
from tests.integration.test_prepare import run_of


def test_a_drop_is_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path)
    result = execute(run).read("result.json")
    rows = drop(run, [0, 0.999], [SMALLEST])
    assert [row["fraction"] for row in rows] == [0, 0.999]
    assert rows[0]["target"] == result["after"]["target"]["mean"]
    assert rows[0]["source"] == result["after"]["source"]["mean"]
    assert rows[1]["source"] == pytest.approx(result["before"]["source"]["mean"], abs=0.2)
    monkeypatch.setattr(dropping, "evaluate", None)
    assert drop(run, [0.999, 0], [SMALLEST]) == rows[::-1]


def test_weights_that_the_run_did_not_end_with_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    record = execute(run)
    path = record.folder / "weights" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=rf"must hold the weights that run {run.id} ended with, and does not"):
        drop(run, [0], [SMALLEST])
    path.write_bytes(whole)
    assert len(drop(run, [0], [SMALLEST])) == 1
    assert record.state() == "done"
    record.write_lines("drops.jsonl", [{"way": SMALLEST, "fraction": 0.0, "target": 1.0, "source": 1.0}])
    with pytest.raises(UserError, match=r"drops\.jsonl is not what its digest in status\.json says"):
        drop(run, [0], [SMALLEST])

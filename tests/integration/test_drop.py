"""A finished run is evaluated with part of its delta dropped, once."""

from pathlib import Path

import pytest

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

"""`gmt show RUN` begins with what came out."""

from pathlib import Path

import pytest

from gmt.commands.show import show
from tests.finished import finish, plan_of


@pytest.mark.parametrize("brief", [False, True])
def test_results_come_before_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str], brief: bool) -> None:
    (run,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    finish(run, 0.5)
    for when in ("before", "after"):
        run.record.write_lines(f"answers_{when}.jsonl", [])
    run.record.finish()
    show(run.record.id, [f"record.root={tmp_path}"], None, brief=brief)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run {run.record.id}: done, attempt 1"
    (result,) = [i for i, line in enumerate(lines) if line.startswith("moved fraction")]
    settings = [i for i, line in enumerate(lines) if line.startswith("train.learning_rate")]
    assert len(settings) == (not brief)
    assert all(result < i for i in settings)

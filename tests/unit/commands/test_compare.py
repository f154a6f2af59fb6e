"""Two runs beside each other: what was set otherwise, what came out otherwise."""

from pathlib import Path
from typing import Any

import pytest

from gmt.cli import run_command
from gmt.records.answers import flips_of
from gmt.studies.plan import PlannedRun
from tests.finished import finish, plan_of


def answered(planned: PlannedRun, scores: dict[str, float]) -> None:
    """Writes the answers of a finished run."""
    rows = [
        {"part": "target", "suite": "sums", "prompt": prompt, "answer": f"{planned.point.arm}'s", "score": score}
        for prompt, score in scores.items()
    ]
    planned.record.write_lines("answers_after.jsonl", rows)
    planned.record.finish()


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    """A run of sft and one of gmt."""
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}, [1])
    for planned, scores in zip(
        plan.runs, ({"1+1": 1, "2+2": 1, "3+3": 0}, {"1+1": 1, "2+2": 0.5, "3+3": 1}), strict=True
    ):
        finish(planned, 0.7 if planned.point.arm == "sft" else 0.75)
        answered(planned, {prompt: float(score) for prompt, score in scores.items()})
    return list(plan.runs)


def test_settings_scores_and_flips_are_shown(runs: list[PlannedRun], tmp_path: Path, capsys: Any) -> None:
    ids = [planned.run.id[:12] for planned in runs]
    assert run_command(["compare", *ids, f"record.root={tmp_path}"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["method.name", "sft", "gmt"] in words
    assert ["target", "mean", "10.0%", "70.0%", "75.0%", "+5.0"] in words
    assert ["target", "sums", "3", "1", "1"] in words
    assert ["target", "sums", "'2+2'", '"sft\'s"', '"gmt\'s"'] in words
    assert not [line for line in words if line and line[0] == "seed"]  # the same in both


def test_equal_prompts_are_told_apart_and_an_answer_right_in_both_flips_nowhere() -> None:
    right, wrong = {"answer": "2", "score": 1.0}, {"answer": "3", "score": 0.9}
    keys = [("target", "sums", "1+1", number) for number in range(2)]
    first, second = flips_of(dict(zip(keys, (right, wrong), strict=True)), dict(zip(keys, (right, right), strict=True)))
    assert not first
    assert [flip.key for flip in second] == [keys[1]]


def test_a_run_that_is_not_done_is_refused(runs: list[PlannedRun], tmp_path: Path, capsys: Any) -> None:
    runs[1].record.set_status("failed")
    assert run_command(["compare", *(planned.run.id for planned in runs), f"record.root={tmp_path}"]) == 2
    assert f"gmt compare needs two runs that are done; {runs[1].run.id} is failed" in capsys.readouterr().err


def test_its_help_teaches(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        run_command(["compare", "--help"])
    assert "with many flips both ways, a small difference of means is noise" in " ".join(
        capsys.readouterr().out.split()
    )

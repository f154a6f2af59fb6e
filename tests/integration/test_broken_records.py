"""A record, a plan or a folder that was cut, edited or taken away is one sentence, and no traceback."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gmt.axis import Axis
from gmt.cli import run_command
from gmt.errors import UserError
from gmt.studies.frozen import freeze, job_of, new_sweep, thaw
from gmt.studies.plan import Plan, rows
from gmt.tracking.series import read_series
from gmt.tracking.table import read_table
from tests.conftest import CONF
from tests.finished import done_study

STUDY = ("study=tiny", "--config-dir", str(CONF))


def _half(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": _half,
    "no keys": lambda path: path.write_text("{}"),
    "a list": lambda path: path.write_text("[]"),
    "no UTF-8": lambda path: path.write_bytes(b'{"state": "\xff"}'),
    "nested": lambda path: path.write_text("[" * 100_000),
    "a folder": _a_folder,
    "gone": Path.unlink,
}
ANSWER = {"part": "target", "suite": "long_words", "prompt": "p", "answer": "a", "score": 1.0}
FILES = (
    "config.json",
    "status.json",
    "result.json",
    "environment.json",
    "metrics.jsonl",
    "answers_after.jsonl",
    "error.txt",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """The folder of the tiny study, done, and its plan."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = done_study()
        for each in plan.runs:
            each.record.append_metrics(1, {"train/loss": 1.0})
            each.record.write_lines("answers_after.jsonl", [ANSWER])
            (each.record.folder / "error.txt").write_text("of the first attempt")
            each.record.finish()
    return folder, plan


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_one_sentence(
    file: str,
    damage: str,
    finished: tuple[Path, Plan],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, plan = finished
    monkeypatch.chdir(folder)
    record = plan.runs[0].record
    path = record.folder / file
    whole = path.read_bytes()
    DAMAGES[damage](path)
    try:
        code = run_command(["show", record.id])
        for read in (
            lambda: rows(plan, plan.states()),  # gmt plan
            lambda: read_table([("a", "a", record)], axis=Axis()),  # gmt report
            lambda: read_series([("a", "a", record)], ["train/loss"], axis=Axis()),
        ):
            with suppress(UserError, OSError):  # which the program shows as sentences
                read()
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(whole)
    output, errors = capsys.readouterr()
    assert len(errors.splitlines()) == (code != 0)
    assert code == 0 or errors.startswith(("error: ", "failed: "))
    assert code == 0 or str(path) in errors
    assert output or code
    needed = file == "config.json" or (file in ("status.json", "result.json") and damage != "gone")
    assert (code == 2) >= needed


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_one_sentence(
    damage: str, finished: tuple[Path, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished[0])
    sweep = new_sweep(finished[1])
    freeze(finished[1].runs, sweep)
    reference = job_of(sweep, finished[1].runs[-1]).partition("=")[2].strip("'")
    path = sweep / "plan.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    last = rows[-1]["run_id"]
    if damage == "no keys":
        path.write_text(json.dumps({"run_id": last}) + "\n")
    else:
        DAMAGES[damage](path)
    with pytest.raises(UserError) as refused:
        thaw(reference)
    assert "plan.jsonl" in str(refused.value) or "planned_run must name" in str(refused.value)


def test_a_file_in_the_way_is_one_sentence(
    finished: tuple[Path, Plan], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished[0])
    shutil.rmtree(finished[1].folder, ignore_errors=True)
    finished[1].folder.parent.mkdir(exist_ok=True)
    finished[1].folder.write_text("a file where the study's folder should be")
    code = run_command(["report", *STUDY, "tracking=none"])
    finished[1].folder.unlink()
    _, errors = capsys.readouterr()
    assert code == 1
    assert errors.startswith("failed: ")
    assert len(errors.splitlines()) == 1

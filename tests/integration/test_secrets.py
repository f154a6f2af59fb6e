"""No password and no token of a real sweep is in its records, its plan, its output, or the store of a real server."""

from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.runs.prepare import prepare
from tests.conftest import CONF, Gmt
from tests.finished import plan_of
from tests.mlflow_server import Server

SECRETS = {"HF_TOKEN": "hf-s3cret-s3cret", "MLFLOW_TRACKING_PASSWORD": "tracking-s3cret", "OTHER_API_KEY": "key-s3cret"}
SECRETS |= {"GITHUB_PAT": "pat-s3cret", "OPENAI_KEY": "openai-s3cret", "MYSQL_PWD": "mysql-s3cret"}
PASSWORD = "uri-s3cret"


def test_a_sweep_writes_no_secret_anywhere(
    gmt: Gmt, tmp_path: Path, mlflow_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    uri = mlflow_server.uri.replace("://", f"://me:{PASSWORD}@")
    tracked = ("study=tiny_alone", "tracking=server", f"tracking.uri={uri}", "--config-dir", str(CONF))
    output = ""
    for command in ("sweep", "report", "sync"):
        more = ("--dirty",) if command == "report" else ("hydra/launcher=basic",) if command == "sweep" else ()
        done = gmt(command, *tracked, *more)
        assert done.returncode == 0, done.stdout + done.stderr
        output += done.stdout + done.stderr
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"config.json", "plan.jsonl", "server.db"} <= {path.name for path in files}
    assert any("artifacts" in path.parts for path in files)
    for secret in (*SECRETS.values(), PASSWORD):
        assert secret not in output
        assert [path for path, content in files.items() if secret.encode() in content] == []


def test_a_failure_is_recorded_without_the_password_in_it(tmp_path: Path) -> None:
    science = {"seed": 1}
    record = RunRecord(tmp_path, run_id(science))
    record.create(science, {})
    record.note_failure("failed", "error", f"OperationalError: postgresql://me:{PASSWORD}@host/db refused")
    assert PASSWORD not in (record.folder / "status.json").read_text()
    assert "postgresql://me:***@host/db" in record.status()["error"]


def test_a_secret_that_a_run_id_covers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "long_words")  # stands in every science of this task
    planned = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs[0]
    with pytest.raises(UserError, match=r"the config must hold no secret, got .*; put the hub's token into HF_TOKEN"):
        prepare(planned.run)

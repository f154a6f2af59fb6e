"""No text of a model, a library or a file steers the terminal that it is shown on."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gmt import cli
from gmt.commands import jobs, ui
from gmt.commands.plan import _by_run
from gmt.commands.show import show
from gmt.studies.plan import PlannedRun
from gmt.studies.progress import Lines, LiveTable
from gmt.studies.watch import Ended, Running, Snapshot
from gmt.terminal import printable, printable_log, say, table
from tests.finished import plan_of

CONTROLS = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"]
ARMS = {"sft": {"method": "sft"}}
HOSTILE = "".join(CONTROLS) + "\x1b]0;title\x07 \x9b2J [link=http://x]y[/link] [/red]"


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_each_control_character_is_shown_as_its_escape(control: str) -> None:
    assert printable(f"a{control}b") == f"a\\x{ord(control):02x}b"


@given(st.text(st.characters()))
def test_all_else_is_shown_as_it_is(text: str) -> None:
    shown = printable(text)
    assert not set(shown) & set(CONTROLS)
    shown.encode()
    if not set(text) & set(CONTROLS) and not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert shown == text
    assert not set(printable_log(text)) & set(CONTROLS)


def test_a_log_loses_its_colours_and_shows_each_state_of_a_bar() -> None:
    assert printable_log("\x1b[36m(worker)\x1b[0m\r\n10%\r20%\n\x1b[2J") == "(worker)\n10%\n20%\n\\x1b[2J"


@pytest.fixture
def failed(tmp_path: Path) -> PlannedRun:
    """A run whose failure quotes what a model said."""
    (planned,) = plan_of(tmp_path, ARMS, [1]).runs
    planned.record.create(planned.run.science, planned.run.config)
    (planned.record.folder / "error.txt").write_text(HOSTILE, encoding="utf-8")
    planned.record.set_status("failed", attempts=1, error=HOSTILE)
    return planned


WAYS: dict[str, Callable[[PlannedRun], object]] = {
    "say": lambda _: say(HOSTILE),
    "a table": lambda _: say(table(["x"], [[HOSTILE]])),
    "an error": lambda _: cli._say("error", HOSTILE),
    "a traceback": lambda _: cli._show_traceback(ValueError, ValueError(HOSTILE), None),
    "a line of a sweep": lambda failed: Lines().show_end(ended(failed)),
    "gmt show": lambda failed: show(failed.run.id, [f"record.root={root_of(failed)}"], None, brief=False),
    "gmt plan": lambda failed: say(_by_run(plan_of(root_of(failed), ARMS, [1]), {failed.run.id: "failed"})),
}


def ended(failed: PlannedRun) -> Ended:
    return Ended(planned=failed, state="failed", number=1, total=1, seconds_left=None)


def root_of(failed: PlannedRun) -> Path:
    return failed.record.folder.parents[1]


@pytest.mark.parametrize("way", WAYS)
def test_text_from_others_is_escaped(way: str, failed: PlannedRun, capsys: pytest.CaptureFixture[str]) -> None:
    WAYS[way](failed)
    text = "".join(capsys.readouterr())
    assert r"\x00\x01" in text
    assert not set(text) & set(CONTROLS)


def test_the_live_table_shows_it_escaped_and_reads_no_markup(failed: PlannedRun) -> None:
    live = LiveTable(Console(file=io.StringIO(), force_terminal=True, width=3000))
    console = live._live.console
    running = Running(label=HOSTILE, attempt=1, step=1, loss=1.0, tokens_per_s=1.0, evaluation=HOSTILE)
    live.show_snapshot(Snapshot(num_waiting=0, running=[running], ended={}, seconds_left=None))
    live.show_end(ended(failed))
    live.close()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count(r"\x1b]0;title\x07 \x9b2J [link=http://x]y[/link] [/red]") >= 3
    assert "\x1b]" not in text
    assert not set(text) & set(CONTROLS) - {"\x1b", "\r"}  # rich's own


def test_the_log_of_a_job_is_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Job:
        def logs(self, job_id: str, *, follow: bool) -> list[str]:
            return [HOSTILE, HOSTILE]

    monkeypatch.setattr(jobs, "_cluster", lambda *_: Job())
    jobs.logs("1", [], None, follow=False)
    assert not set(capsys.readouterr().out) & set(CONTROLS)


def test_what_a_dashboards_server_complains_of_is_escaped(tmp_path: Path) -> None:
    log = ui._new_private_file(tmp_path / "ui.log")
    code = f"import sys; sys.stderr.buffer.write({HOSTILE.encode()!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as server:
        ui._copy_stderr(server, log)
    text = log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert r"\x1b]0;title" in text
    assert not set(text) & set(CONTROLS)

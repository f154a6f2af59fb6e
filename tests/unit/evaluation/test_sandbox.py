"""Limits, the refusal where no sandbox can be made, and running without one. Needs no bubblewrap."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.evaluation.sandboxing import sandbox, system_calls
from gmt.evaluation.sandboxing.sandbox import run_all, run_python
from tests.sandboxing import LIMITS, run_until_judged

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def _probed_anew() -> Iterator[None]:
    sandbox._fault.cache_clear()
    yield
    sandbox._fault.cache_clear()


def fake_bwrap(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"wall_time_s": 0}, r"limits\.wall_time_s must be above 0, got 0"),
        ({"cpu_time_s": 0.5}, r"limits\.cpu_time_s must be a whole number of at least 1, got 0\.5"),
        ({"memory_bytes": 2**20}, r"limits\.memory_bytes must be a whole number of at least 67108864, got 1048576"),
        ({"processes": 0}, r"limits\.processes must be a whole number of at least 1, got 0"),
        ({"output_bytes": -1}, r"limits\.output_bytes must be a whole number of at least 0, got -1"),
        ({"scratch_bytes": 1}, r"limits\.scratch_bytes must be a whole number of at least 4096, got 1"),
    ],
)
def test_limits_out_of_range_are_named(changed: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(LIMITS, **changed)  # type: ignore[arg-type]


def test_without_bubblewrap_nothing_runs_and_the_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as refusal:
        run_python("pass", LIMITS)
    (sentence,) = refusal.value.sentences
    assert "bwrap is not on the PATH" in sentence
    assert "apt install bubblewrap" in sentence
    assert "run_untrusted_code_without_sandbox: true" in sentence


def test_without_user_namespaces_the_sentence_holds_bubblewraps_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_bwrap(tmp_path, monkeypatch, "echo bwrap: No permissions to create new namespace >&2; exit 1")
    with pytest.raises(UserError) as refusal:
        run_all(["pass"], LIMITS, at_once=1)
    (sentence,) = refusal.value.sentences
    assert "bwrap: No permissions to create new namespace" in sentence
    assert "user.max_user_namespaces" in sentence
    assert "run_untrusted_code_without_sandbox: true" in sentence


def test_an_unknown_processor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bwrap(tmp_path, monkeypatch, "exit 1")
    monkeypatch.setattr(system_calls.platform, "machine", lambda: "riscv64")
    with pytest.raises(UserError, match="use x86_64 or aarch64"):
        run_python("pass", LIMITS)


def test_one_trial_serves_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bwrap(tmp_path, monkeypatch, f"echo tried >> {tmp_path / 'trials'}; exit 1")
    for _ in range(3):
        with pytest.raises(UserError):
            run_python("pass", LIMITS)
    assert (tmp_path / "trials").read_text() == "tried\n"


def test_both_processors_refuse_the_same_calls() -> None:
    x86, arm = system_calls._REFUSED.values()
    assert x86.keys() - {"modify_ldt"} == arm.keys()  # only x86 has segments


def bare(program: str, **changed: float) -> sandbox.Outcome:
    limits = replace(LIMITS, **changed)  # type: ignore[arg-type]
    return run_until_judged(program, limits, run_untrusted_code_without_sandbox=True)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("assert 1 + 1 == 2", "passed"),
        ("assert 1 + 1 == 3", "failed"),
        ("raise SystemExit(0)", "failed"),
        ("import time; time.sleep(60)", "timed out"),
        ("import os, time; os.closerange(0, 64); time.sleep(60)", "timed out"),
        ("while True: pass", "timed out"),
        ("bytearray(2**30)", "out of memory"),
        ("while True: print('x' * 1000)", "too much output"),
        ("open('f', 'wb').write(bytes(2**23))", "failed"),
    ],
)
def test_limits_hold_without_a_sandbox(program: str, status: str) -> None:
    assert bare(program, wall_time_s=1).status == status


def test_without_a_sandbox_variables_stay_out_and_the_folder_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    outcome = bare("import os; open('f', 'w'); raise SystemExit(f'{os.getcwd()} {os.environ}')")
    assert "secret" not in outcome.stderr_end
    assert not Path(outcome.stderr_end.split()[0]).exists()


def test_without_a_sandbox_the_group_of_a_program_ends_with_it() -> None:
    program = "import os, subprocess, sys; p = subprocess.Popen(['sleep', '60']); sys.exit(str(p.pid))"
    outcome = bare(program, processes=100_000, wall_time_s=1)  # the child holds its pipes
    pid = int(outcome.stderr_end)
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_outcomes_come_in_the_order_of_the_programs_and_are_told_as_they_end() -> None:
    programs = ["import time; time.sleep(1)", "pass", "assert False"]
    told: list[int] = []
    outcomes = run_all(
        programs, LIMITS, at_once=2, on_done=lambda i, _: told.append(i), run_untrusted_code_without_sandbox=True
    )
    assert [outcome.status for outcome in outcomes] == ["passed", "passed", "failed"]
    assert sorted(told) == [0, 1, 2]
    assert told[-1] == 0 or told[0] == 1


def test_what_raises_while_programs_run_ends_the_rest() -> None:
    def give_up(index: int, outcome: sandbox.Outcome) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(
            ["import time; time.sleep(0.2)"] * 1000,
            LIMITS,
            at_once=2,
            on_done=give_up,
            run_untrusted_code_without_sandbox=True,
        )
    assert time.monotonic() - began < 30  # of 100 s for all


def test_a_failure_shows_its_traceback_and_its_exit_code() -> None:
    outcome = bare("def f():\n    raise ValueError('here')\nf()")
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    assert 'File "<answer>", line 2, in f' in outcome.stderr_end
    assert outcome.stderr_end.endswith("ValueError: here")


@pytest.mark.parametrize(
    "program",
    [
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\nassert A().x == 1",
        "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
        "import sys\nassert sys.stdin.read() == ''",
        "import sys\nassert len(sys.argv) == 1",
        "assert __name__ != '__main__'",
        "x = '\\N{SNOWMAN} \u2603'\nassert len(x) == 3",
        "#" + "x" * 2**21,
        "import os\nif os.fork() == 0: os._exit(0)",
    ],
)
def test_a_program_finds_what_it_may_expect(program: str) -> None:
    outcome = bare(program, processes=100_000)
    assert outcome.status == "passed", outcome.stderr_end


def test_a_text_that_is_no_program_fails() -> None:
    for program in ("def f(:", "x = '\x00'", "'\ud800'"):
        assert bare(program).status == "failed"


def test_a_set_has_one_order() -> None:
    program = "raise SystemExit(repr({'a', 'b', 'c', 'd', 'e'}))"
    assert len({bare(program).stderr_end for _ in range(4)}) == 1


def test_the_runner_imports_nothing_but_python(tmp_path: Path) -> None:
    before = dict(os.environ)
    assert bare(f"import sys; assert sys.prefix == {sys.prefix!r}; assert 'gmt' not in sys.modules").status == "passed"
    assert dict(os.environ) == before

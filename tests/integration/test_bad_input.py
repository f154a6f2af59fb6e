"""What is asked wrongly ends with exit code 2 and one clear sentence, and starts nothing."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from gmt.cli import run_command
from gmt.composition import as_text
from gmt.models.pretrained import SHIPPED
from tests.conftest import CONF, Gmt

WORDS = "{family:spell_backward,settings:{},num_examples:3}"
CASES = [
    (["swep"], "gmt has no command 'swep'; did you mean 'sweep'?"),
    (["sweep"], "gmt sweep needs study=NAME"),
    (["run", "method=gtm"], "there is no method 'gtm'; did you mean 'gmt'?"),
    (["run", "task=nothing"], "there is no task 'nothing'"),
    (["sweep", "study=nothing"], "there is no study 'nothing'"),
    (["plan", "study=nothing"], "there is no study 'nothing'"),
    (["run", "method.mask_rato=0.5"], "method has no setting 'mask_rato'; did you mean 'mask_ratio'?"),
    (["run", "+method.mask_rato=0.5"], "method has no setting 'mask_rato'; did you mean 'mask_ratio'?"),
    (["run", "sed=3"], "has no setting 'sed'; did you mean 'seed'?"),
    (["run", "method.mask_ratio=1.0"], "method.mask_ratio must lie in [0, 1), got 1.0"),
    (["run", "method.mask_ratio=1.5"], "method.mask_ratio must lie in [0, 1), got 1.5"),
    (["run", "method.mask_ratio=-0.1"], "method.mask_ratio must lie in [0, 1), got -0.1"),
    (["run", "method.mask_ratio=nan"], "method.mask_ratio must lie in [0, 1), got nan"),
    (["run", "method.mask_ratio=abc"], "method.mask_ratio must lie in [0, 1), got 'abc'"),
    (["run", "seed=-1"], "seed must be a whole number of at least 0, got -1"),
    (["run", "task.train.long_words.num_examples=0"], "num_examples must be a whole number of at least 1, got 0"),
    (["run", "train.max_length=3", "task=tiny", "--config-dir", str(CONF)], "train.max_length must leave a training"),
    (["run", "model.path=./nowhere"], "model.path must be a model folder, got './nowhere'"),
    (["run", "tracking.uri=http://127.0.0.1:9", "task=tiny", "--config-dir", str(CONF)], "a store that answers"),
    (["run", "tracking.uri=./folder"], "tracking.uri must be a database or a server"),
    (["run", "study=quickstart"], "study belongs to `gmt sweep`"),
    (
        ["run", "task.train.long_words.family=spel_backward"],
        "no family 'spel_backward'; did you mean 'spell_backward'?",
    ),
    (["sweep", "study=quickstart", "method.mask_ratio=0.5,0.50"], "the same run occurs in the study 2 times"),
    (
        ["sweep", "study=tiny", "train.max_length=3", "--config-dir", str(CONF)],
        "train.max_length must leave a training",
    ),
    (["run", "record.root=/dev/null"], "record.root must be a folder that can be written, got '/dev/null'"),
    (["run", "record.root=/proc/x"], "record.root must be a folder that can be written, got '/proc/x'"),
    (["ui", "record.root=/dev/null"], "record.root must be a folder that can be written, got '/dev/null'"),
    (["run", "search=null"], "search must name one of its files, got null; leave it out, or write ~search to remove"),
    (["plan", "study=quickstart", "method=3"], "method must name one of its files, got 3; leave it out"),
    (["run", "method=[sft,gmt]"], "method must name one file, got [sft,gmt]; method=sft,gmt does a run for each"),
    (["run", "model=[1,2]", "--cfg", "job"], "model must name one file, got [1,2]"),
    (["run", "task.metric=acc,none"], r"write a text with commas as KEY=\'A,B\'"),
    (["show", "123"], "no run below"),
    (["run", 'model.path="~nobody/x"'], "model.path must be a model folder, got '~nobody/x'"),
    (["sweep", "study=quickstart,efficiency"], "a sweep must name one study, got study=quickstart,efficiency"),
    (["run", "-m", "seed=range(1,2,0)"], "seed=range(1,2,0) lists no values: range() arg 3 must not be zero"),
    (["plan", "study=quickstart", "seed=range(1,1)"], "seed=range(1,1) lists no values"),
    (["plan", "study=quickstart", "seed=glob(*)"], "seed=glob(*) lists no values"),
    (["ui", "--port", "99999999"], "--port must be free on 127.0.0.1, got 99999999"),
    (["sweep", "study=quickstart", "study.name=a/b"], "study.name must consist of at most 100 of the characters A-Z"),
    (["run", "task.data.path=größe.jsonl"], "write the text as 'task.data.path=\"größe.jsonl\"'"),
    (
        ["run", "~task.target", f"+task.target={{acc@1:{WORDS}}}"],
        "the name of an evaluation in task.target must consist",
    ),
    (["report", "study=quickstart"], "has no finished run to report on"),
]


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_no_letter_of_a_password_is_shown(scheme: str, gmt: Gmt, tmp_path: Path) -> None:
    raw = "Zq/ b@#%\"'ü:?=qZ"
    for password in (quote(raw, safe=""), raw, raw.replace("@", "")):  # the last is a database's right one
        uri = f"{scheme}://me:{password}@127.0.0.1:1/x"  # nobody listens there
        done = gmt("run", "task=tiny", f"tracking.uri={as_text(uri)}", "--config-dir", str(CONF))
        assert done.returncode == 2
        assert "tracking.uri" in done.stderr
        assert not re.search("Zq|qZ", done.stdout + done.stderr)
        assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert not list(tmp_path.glob("gmt-results/runs/*"))


@pytest.mark.parametrize(
    "letters", ["/b", " b", "@b", "#b", "%b", "'b", 'b"b', "ü中", "?b=", "://b:b@", "80/b", "=", "\\"]
)
def test_no_letter_of_a_password_is_shown_however_it_is_typed(
    letters: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in (
        f"http://me:Zq{letters}qZ@host:1",
        f"http://me:{letters}ZqqZ@host",
        f"postgresql://me:Zq@{letters}qZ@host",
    ):
        for typed in (uri, as_text(uri), f"[{uri}"):
            assert run_command(["ui", f"tracking.uri={typed}"]) == 2
            output, errors = capsys.readouterr()
            assert not re.search("Zq|qZ", output + errors)
            assert errors.startswith("error: ")


@pytest.mark.parametrize(("arguments", "sentence"), CASES, ids=[" ".join(a)[:60] for a, _ in CASES])
def test_one_sentence_and_exit_code_two(gmt: Gmt, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = gmt(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())
    assert not list(tmp_path.glob("gmt-results/runs/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be had")
def test_a_gpu_that_is_not_there_costs_no_record(gmt: Gmt, tmp_path: Path) -> None:
    done = gmt("run", "resources.device=cuda", "tracking=none")
    assert done.returncode == 2
    assert done.stderr == "error: resources.device must be cpu or auto here, got cuda: torch finds no GPU\n"
    assert not list(tmp_path.glob("gmt-results/runs/*"))


def test_independent_faults_of_a_study_are_shown_together(gmt: Gmt) -> None:
    done = gmt("sweep", "study=quickstart", "method.mask_ratio=0.5,1.5", "seed=-1", "train.num_epochs=0")
    assert done.returncode == 2
    for sentence in ("got 1.5", "seed must be", "train.num_epochs must be"):
        assert sentence in done.stderr


def test_a_record_whose_config_was_changed_is_refused(gmt: Gmt, tmp_path: Path) -> None:
    arguments = ("run", "task=tiny", "tracking=none", "--config-dir", str(CONF))
    assert gmt(*arguments).returncode == 0
    path = next(tmp_path.glob("gmt-results/runs/*/config.json"))
    stored = json.loads(path.read_text())
    stored["science"]["seed"] = 2
    path.write_text(json.dumps(stored))
    done = gmt(*arguments)
    assert done.returncode == 2
    assert "no longer hashes to the run id" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that answers a read with EIO")
def test_a_broken_disk_is_one_sentence_and_exit_code_one(gmt: Gmt, tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/proc/self/mem")
    done = gmt("run", "model=pretrained", "model.name=m", "model.path=./model", "tracking=none")
    assert done.returncode == 1
    assert done.stderr.startswith("failed: ")
    assert "Input/output error" in done.stderr
    assert "Traceback" not in done.stderr

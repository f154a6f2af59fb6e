"""The commit and the files of hub models and data are recorded, and a branch that moved is told. No hub is asked."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gmt import file_digests
from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.file_digests import git_sha1_of, sha256_of
from gmt.models.pretrained import SHIPPED
from gmt.runs.build import Run, build
from gmt.runs.execute import execute
from gmt.runs.prepare import prepare
from gmt.runs.sources import hub_versions, sources_of
from gmt.runs.stored_scores import read_score, write_score
from gmt.studies.differing import differing_code
from gmt.tasks.protocol import Score
from gmt.tasks.rows import Source
from tests.conftest import CONF
from tests.finished import finish, plan_of
from tests.models import pretrained

REPO, DATA = "somebody/nano", "somebody/sums"
FIRST, SECOND = "0" * 39 + "1", "0" * 39 + "2"


class Hub:
    """The caches of huggingface_hub and datasets, as they lay them out; there is no network."""

    def __init__(self, folder: Path):
        self.model = folder / "hub" / f"models--{REPO.replace('/', '--')}"
        self.datasets = folder / "datasets"
        (self.model / "refs").mkdir(parents=True)

    def move_model(self, commit: str, **more: str) -> Path:
        """Let the branch main name a commit, with nano's files and more."""
        snapshot, blobs = self.model / "snapshots" / commit, self.model / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir(exist_ok=True)
        for file in (SHIPPED / "nano").iterdir():
            scratch = self.model / file.name
            scratch.write_bytes(file.read_bytes() + more.get(file.stem, "").encode())
            # as the hub does: a large file is called by its SHA-256, a small one as git calls it
            name = sha256_of(scratch) if file.suffix == ".safetensors" else git_sha1_of(scratch)
            scratch.rename(blobs / name)
            (snapshot / file.name).symlink_to(Path("../../blobs") / name)
        (self.model / "refs" / "main").write_text(commit)
        return snapshot

    def move_data(
        self, commit: str, rows: list[dict[str, Any]], builder: str = "parquet", subset: str = "default"
    ) -> None:
        """Cache a commit of a dataset, as Arrow alone."""
        name = DATA.partition("/")[2]
        folder = self.datasets / DATA.replace("/", "___") / subset / "0.0.0" / commit
        shutil.rmtree(self.datasets, ignore_errors=True)
        made = Dataset.from_list(rows)
        made.save_to_disk(folder / "made")
        folder.joinpath("made", "data-00000-of-00001.arrow").rename(folder / f"{name}-train.arrow")
        shutil.rmtree(folder / "made")
        size = {"name": "train", "num_bytes": 1, "num_examples": len(rows), "dataset_name": name}
        features = {column: {"dtype": "string", "_type": "Value"} for column in rows[0]}
        info = {"config_name": subset, "dataset_name": name, "splits": {"train": size}, "features": features}
        more = {"builder_name": builder, "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0}}
        (folder / "dataset_info.json").write_text(json.dumps(info | more))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(made.datasets))
    return made


def data(revision: str = "main") -> Source:
    return Source(setting="task.data", path=DATA, subset=None, revision=revision, split="train")


def run_of(root: Path, *more: str) -> Run:
    with hydra_on(str(CONF)):
        config = Composer().compose_plain(["task=tiny", "train.num_epochs=1", f"record.root={root}", *more])
    return build(config)


def test_the_commit_and_the_digests_of_a_hub_model_are_those_of_its_files(hub: Hub) -> None:
    snapshot = hub.move_model(FIRST)
    for revision in ("main", FIRST):
        (used,) = pretrained(path=REPO, revision=revision).used_files().values()
        recorded = used.recorded()
        assert recorded["commit"] == FIRST
        for name, digest in recorded["files"].items():
            assert hashlib.sha256((snapshot / name).read_bytes()).hexdigest() == digest
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= recorded["files"].keys()


def test_files_of_this_machine_are_recorded_without_a_commit() -> None:
    (used,) = pretrained().used_files().values()
    assert used.recorded()["commit"] is None
    assert used.recorded()["files"]["config.json"] == sha256_of(SHIPPED / "nano" / "config.json")
    assert hub_versions({"model.files": used.recorded()}) == {}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_blob_of_a_shared_cache_that_was_changed_is_refused(hub: Hub, name: str) -> None:
    snapshot = hub.move_model(FIRST)
    blob = (snapshot / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-2] ^= 1
    blob.write_bytes(content)
    with pytest.raises(UserError, match=f"{blob}, a file of the hub.s cache, was cut or changed"):
        pretrained(path=REPO, revision=FIRST).used_files()


def test_the_commit_of_a_hub_dataset_is_that_of_the_files_that_are_read(hub: Hub) -> None:
    hub.move_data(FIRST, [{"prompt": "1+1=", "completion": "2"}])
    recorded = data().used_files().recorded()
    assert recorded["commit"] == FIRST
    assert [*recorded["files"]] == ["sums-train.arrow"]
    hub.move_data(SECOND, [{"prompt": "1+1=", "completion": "3"}])
    moved = data().used_files().recorded()
    assert moved["commit"] == SECOND
    assert moved["files"] != recorded["files"]


@pytest.mark.parametrize("lost", [0, 1])
def test_json_of_a_hub_dataset_is_read_from_the_hubs_cache_as_a_file_is(hub: Hub, tmp_path: Path, lost: int) -> None:
    rows = [{"prompt": "?", "completion": "2021-02-01"}, {"prompt": "?", "completion": "007"}]
    arrow = [{"prompt": "?", "completion": "as datasets made it"}] * 2
    hub.move_data(FIRST, arrow, "json")
    assert [*data(FIRST).rows()] == arrow
    snapshot = tmp_path / "hub" / f"datasets--{DATA.replace('/', '--')}" / "snapshots" / FIRST
    snapshot.mkdir(parents=True)
    assert [*data(FIRST).rows()] == arrow
    (snapshot / "train.json").write_text(json.dumps(rows[lost:]))
    assert [*data(FIRST).rows()] == (arrow if lost else rows)
    recorded = data(FIRST).used_files().recorded()
    assert recorded["commit"] == FIRST
    assert [*recorded["files"]] == (["sums-train.arrow"] if lost else ["train.json"])


@pytest.mark.parametrize(("file", "subset"), [("test.json", "default"), ("train.json", "hard")])
def test_a_cache_of_the_hub_that_lacks_a_split_or_the_readme_is_passed_over(
    hub: Hub, tmp_path: Path, file: str, subset: str
) -> None:
    rows = [{"prompt": "?", "completion": "as datasets made it"}]
    hub.move_data(FIRST, rows, "json", subset)
    snapshot = tmp_path / "hub" / f"datasets--{DATA.replace('/', '--')}" / "snapshots" / FIRST
    snapshot.mkdir(parents=True)
    (snapshot / file).write_text(json.dumps([{"prompt": "?", "completion": "read by Python"}]))
    source = Source(setting="task.data", path=DATA, subset=subset, revision=FIRST, split="train")
    assert [*source.rows()] == rows
    assert [*source.used_files().recorded()["files"]] == ["sums-train.arrow"]


def test_another_commit_than_the_pinned_one_is_refused(hub: Hub) -> None:
    hub.move_data(SECOND, [{"prompt": "1+1=", "completion": "3"}])
    assert data(SECOND).rows()[0]["completion"] == "3"
    with pytest.raises(UserError, match=rf"revision must be a commit .* got {FIRST}: .* the cache has commit {SECOND}"):
        data(FIRST).rows()


def test_a_branch_that_moved_between_two_runs_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.move_model(FIRST)
    hub.move_data(FIRST, [{"prompt": "1+1=", "completion": "2"}])
    plan = plan_of(tmp_path / "records", {"sft": {"method": "sft"}}, [1, 2])
    for each, commit in zip(plan.runs, (FIRST, SECOND), strict=True):
        if commit == SECOND:
            hub.move_model(SECOND, config=" ")
            hub.move_data(SECOND, [{"prompt": "1+1=", "completion": "3"}])
        (model,) = pretrained(path=REPO, revision="main").used_files().values()
        sources = {"model.files": model.recorded(), "task.data": data().used_files().recorded()}
        finish(each, 0.5)
        known = each.record.read("environment.json")
        each.record.write("environment.json", known | {"code": hub_versions(sources), "sources": sources})
        each.record.finish()
    of_data, of_model = sorted(differing_code(plan.runs), key=lambda sentence: "model.files" in sentence)
    for sentence, name in ((of_model, "model.files"), (of_data, "task.data")):
        assert f"{name} commit {FIRST}, files sha256:" in sentence
        assert f"commit {SECOND}, files sha256:" in sentence


@pytest.mark.heavy
def test_a_run_records_its_sources(hub: Hub, tmp_path: Path) -> None:
    hub.move_model(FIRST)
    run = run_of(tmp_path / "records", f"model.path={REPO}", "model.revision=main")
    environment = execute(run).read("environment.json")
    assert environment["sources"] == sources_of(run, prepare(run))
    assert environment["sources"]["model.files"]["commit"] == FIRST
    assert environment["code"]["model.files"].startswith(f"commit {FIRST}, files sha256:")
    (base,) = (tmp_path / "records" / "base").iterdir()
    hub.move_model(SECOND, config=" ")
    again = run_of(tmp_path / "records", f"model.path={REPO}", "model.revision=main", "seed=9")
    execute(again)  # in the same process, which has asked the base of the first commit
    assert len([*base.parent.iterdir()]) == 2


def test_a_large_file_is_read_once_for_all_processes_and_again_when_anything_about_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digests, "_LARGE_BYTES", 4)
    monkeypatch.setattr(file_digests, "_SETTLED_S", -1.0)
    monkeypatch.setenv("GMT_CACHE", str(tmp_path / "cache"))
    hashed: list[Path] = []
    real = file_digests._hashed
    monkeypatch.setattr(file_digests, "_hashed", lambda path: hashed.append(path) or real(path))
    file = tmp_path / "weights"
    file.write_bytes(b"abcdef")
    about = file.stat()
    for number, content in enumerate((b"abcdef", b"abcdeg"), start=1):
        if content != b"abcdef":
            file.write_bytes(content)
            os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # which whoever hides a change does
        for _ in range(2):
            assert sha256_of(file) == hashlib.sha256(content).hexdigest()
        assert len(hashed) == number
    (entry, *_) = (tmp_path / "cache" / "digests").iterdir()
    assert (entry.parent.stat().st_mode & 0o777, entry.stat().st_mode & 0o777) == (0o700, 0o600)
    for each in entry.parent.iterdir():
        each.write_text("forged")
    assert sha256_of(file) == hashlib.sha256(b"abcdeg").hexdigest()
    for each in entry.parent.iterdir():
        each.write_text("0" * 64)
        each.chmod(0o666)
    assert sha256_of(file) == hashlib.sha256(b"abcdeg").hexdigest()


def test_a_file_that_may_change_within_a_tick_of_the_clock_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digests, "_LARGE_BYTES", 1)
    monkeypatch.setenv("GMT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    for content in (b"one", b"two"):
        file.write_bytes(content)
        assert sha256_of(file) == hashlib.sha256(content).hexdigest()
    assert not (tmp_path / "cache").exists()


def test_an_incomplete_stored_score_is_evaluated_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "base" / "target" / "sums.json"
    file.parent.mkdir(parents=True)
    score = Score(metric="exact_match", value=0.25, answers=[{"prompt": "p", "answer": "a", "score": 0.25}])
    write_score(file, score)
    assert read_score(file) == score
    whole = file.read_bytes()
    damaged: list[Any] = [whole[:-1], b"", b"[]", b"{}", whole.replace(b"0.25", b"0.75"), b"[" * 100_000]
    damaged += [json.dumps({"metric": "exact_match", "value": 1.0, "answers": []}).encode(), b"\xff"]
    for content in damaged:
        file.write_bytes(content)
        assert read_score(file) is None
    assert caplog.messages == [f"{file} was changed or copied since it was written: its value is computed again"] * len(
        damaged
    )
    other = tmp_path / "base" / "source" / "sums.json"
    other.parent.mkdir()
    other.write_bytes(whole)
    assert read_score(other) is None

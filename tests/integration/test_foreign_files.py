"""A run neither goes on from a checkpoint nor believes a score that a second user of the machine has laid there."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed.checkpoint import FileSystemReader

from gmt.errors import UserError
from gmt.runs.evaluate import folder_of_base
from gmt.runs.execute import execute
from gmt.runs.prepare import prepare
from gmt.runs.sources import sources_of
from tests.integration.test_evaluation import run_of
from tests.second_user import as_root, open_to_all, second_user

SENTENCE = r"^record\.root must be writable by you and root alone, .* but {} (belongs|can be written)"


class Planted:
    """Runs code where it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def plant(file: Path, content: bytes) -> None:
    """Write a file, with the folders above it, as the second user, where root had left a folder open to all."""
    file.parents[2].mkdir(parents=True, exist_ok=True)
    file.parents[2].chmod(0o777)
    open_to_all(file.parents[2])
    with second_user():
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    file.parents[2].chmod(0o755)


@as_root
@pytest.mark.parametrize(
    "name", [pytest.param("target/one.json", marks=pytest.mark.slow), "target/scratch/one/answers.db"]
)
def test_a_forged_base_score_is_refused(tmp_path: Path, name: str) -> None:
    run = run_of(tmp_path)
    score = {"metric": "points", "value": 1.0, "answers": []}
    plant(folder_of_base(run, sources_of(run, prepare(run)), "cpu") / name, json.dumps(score).encode())
    with pytest.raises(UserError, match=SENTENCE.format(r"\S+")):
        execute(run)
    assert not (run.record.folder / "before.json").exists()


@as_root
def test_a_second_users_checkpoint_is_not_unpickled(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    shards = run.record.checkpoints / "checkpoint-1/pytorch_model_fsdp_0"
    plant(shards / ".metadata", pickle.dumps(Planted(tmp_path / "ran")))
    with pytest.raises(UserError, match=SENTENCE.format(r"\S+/checkpoint-1")):
        execute(run)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(AttributeError):
        FileSystemReader(shards).read_metadata()  # what torch would have done with it
    assert (tmp_path / "ran").exists()


def test_a_folder_that_others_can_write_is_refused_before_a_record_is_made(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(UserError, match=SENTENCE.format(tmp_path / "shared")):
        execute(run_of(tmp_path / "shared"))
    assert list((tmp_path / "shared/runs").iterdir()) == []

"""What another user could have written is not run, not resumed from and not believed."""

import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gmt import ownership
from gmt.errors import UserError
from gmt.removal import remove
from gmt.runs.settings import RecordSettings
from tests.second_user import NOBODY, as_root, open_to_all, second_user


def record_settings(root: Path, **more: Any) -> RecordSettings:
    return RecordSettings(root=str(root), log_every=1, checkpoint_every=1, evaluate_every=0, keep_weights=False, **more)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "runs/id/checkpoint/checkpoint-5/shards/.metadata"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    return path


def test_our_own_files_are_ours(tmp_path: Path, checkpoint: Path) -> None:
    for path in (tmp_path / "runs/id/checkpoint", tmp_path / "runs/id/not/there/yet"):
        record_settings(tmp_path).refuse_foreign(path)
        assert ownership.foreign(path, tmp_path) is None


@as_root
@pytest.mark.parametrize("level", range(7))
def test_a_file_or_folder_of_another_user_is_refused_wherever_it_lies(
    tmp_path: Path, checkpoint: Path, level: int
) -> None:
    changed = [checkpoint, *checkpoint.parents][level]
    os.chown(changed, NOBODY, NOBODY)
    user = pwd.getpwuid(NOBODY).pw_name
    with pytest.raises(UserError, match=rf"but {changed} belongs to the user {user} \(uid 65534\); .* record.trust_"):
        record_settings(tmp_path).refuse_foreign(tmp_path / "runs/id/checkpoint")
    record_settings(tmp_path, trust_others=True).refuse_foreign(tmp_path / "runs/id/checkpoint")


@pytest.mark.parametrize("level", range(7))
@pytest.mark.parametrize(("mode", "who"), [(0o707, "everybody"), (0o770, "the group")])
def test_files_that_others_can_write_are_refused_in_any_folder(
    tmp_path: Path, checkpoint: Path, level: int, mode: int, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_is_private", lambda gid, uid: False)
    changed = [checkpoint, *checkpoint.parents][level]
    changed.chmod(mode)
    with pytest.raises(UserError, match=rf"but {changed} can be written by {who}.* \(mode {mode:o}\)"):
        record_settings(tmp_path).refuse_foreign(tmp_path / "runs/id/checkpoint")


def test_a_folder_that_goes_while_it_is_looked_at_is_no_fault(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.listdir

    def listdir(path: Path) -> list[str]:
        if path == checkpoint.parent:
            remove(checkpoint.parent, tmp_path)  # by a run beside this one
        return whole(path)

    monkeypatch.setattr(os, "listdir", listdir)
    record_settings(tmp_path).refuse_foreign(tmp_path / "runs/id/checkpoint")
    assert not checkpoint.parent.exists()


def test_a_link_below_is_refused_and_one_of_ours_above_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk/id").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/runs").symlink_to(tmp_path / "disk")
    assert ownership.foreign(tmp_path / "root/runs/id", tmp_path / "root") is None
    (tmp_path / "disk/id/answers").symlink_to("/etc/passwd")
    assert (
        ownership.foreign(tmp_path / "root/runs/id", tmp_path / "root") == f"{tmp_path}/root/runs/id/answers is a link"
    )
    (tmp_path / "disk").chmod(0o777)
    assert "can be written by everybody" in str(ownership.foreign_folder(tmp_path / "root/runs", tmp_path / "root"))


def test_a_sticky_folder_may_lie_above_but_not_below(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    tmp_path.chmod(0o1777)
    assert ownership.foreign(tmp_path / "own", tmp_path) is None
    (tmp_path / "own").chmod(0o1777)
    assert "can be written by everybody (mode 1777)" in str(ownership.foreign(tmp_path / "own", tmp_path))


GROUPS = {
    "the user's own, of Debian and Fedora": ("me", [], 500, None, True),
    "the user's own, which lists its user": ("me", ["me"], 500, None, True),
    "one of another name": ("users", [], 500, None, False),
    "one with another member": ("me", ["me", "you"], 500, None, False),
    "one that is another's first group": ("me", [], 500, ("you", 7), False),
    "not the user's first group": ("me", [], 501, None, False),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_group_may_write_only_if_the_user_is_alone_in_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, members, first, other, is_private = GROUPS[case]
    me = SimpleNamespace(pw_name="me", pw_uid=5, pw_gid=first)
    others = [] if other is None else [SimpleNamespace(pw_name=other[0], pw_uid=other[1], pw_gid=500)]
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: me)
    monkeypatch.setattr(pwd, "getpwall", lambda: [me, *others])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=name, gr_mem=members))
    ownership._is_private.cache_clear()
    assert ownership._is_private(500, 5) is is_private
    ownership._is_private.cache_clear()


def test_a_user_without_a_name_has_no_private_group() -> None:
    assert not ownership._is_private(54321, 54321)


def test_what_a_run_makes_is_closed_to_a_group_that_may_write_by_default(tmp_path: Path) -> None:
    os.umask(0o002)
    record_settings(tmp_path / "new").close_to_others()
    assert (tmp_path / "new/runs").stat().st_mode & 0o7777 == 0o755
    os.umask(0o007)
    record_settings(tmp_path / "new").close_to_others()
    (tmp_path / "closed").mkdir()
    assert (tmp_path / "closed").stat().st_mode & 0o7777 == 0o750  # never opens what the user has closed


def test_folders_that_a_group_shares_on_purpose_stay_open_to_it(tmp_path: Path) -> None:
    os.umask(0o002)
    tmp_path.chmod(0o2777)
    record_settings(tmp_path, trust_others=True).close_to_others()
    (tmp_path / "more").mkdir()
    assert (tmp_path / "more").stat().st_mode & 0o777 == 0o775
    with pytest.raises(
        UserError, match=rf"^record\.root must be writable by you and root alone, .* {tmp_path} can be written by every"
    ):
        record_settings(tmp_path).close_to_others()


@as_root
def test_a_second_user_is_refused_roots_folder_only_where_others_write(tmp_path: Path) -> None:
    """Root's files are believed: root can do anything anyway."""
    open_to_all(tmp_path)
    (tmp_path / "base").mkdir()

    def seen() -> str | None:
        with second_user():
            return ownership.foreign(tmp_path / "base", tmp_path)

    assert seen() is None
    (tmp_path / "base").chmod(0o777)
    assert seen() == f"{tmp_path}/base can be written by everybody (mode 777)"

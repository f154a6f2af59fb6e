"""Nothing outside the folder that a removal is bound to is ever removed, whatever the names and whatever lies there."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

import gmt
from gmt import removal
from gmt.removal import remove
from tests.second_user import as_root, open_to_all, second_user

# Each may stand anywhere in a name; the links are those of `world`.
PIECES = [
    "a",
    "A",
    "b",
    "..",
    ".",
    "",
    "/",
    "//",
    "out",
    "in",
    "loop",
    "up",
    "victim",
    "\n",
    "\0",
    " ",
    "~",
    "*",
    "a\n",
]
PIECES += ["．．", "․․", "a∕b", "ａ", "а", "é", "e\u0301", "\udcff", "\u202e", "-rf", "x" * 300]  # noqa: RUF001
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("/".join) | st.text(max_size=12)


def can_mount() -> bool:
    """Try a mount in a namespace of its own, which ends with the trial."""
    trial = ["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"]
    is_there = all(shutil.which(program) for program in ("unshare", "mount"))
    return is_there and subprocess.run(trial, capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="needs the right to mount; test_another_device_is_not_entered holds the rule without it"
)


@contextmanager
def world() -> Iterator[Path]:
    """A folder `own` with links to all around it, beside a `victim` that must stay."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for each in ("own/a/b", "own/A", "own/b", "victim/a/b", "own-too"):
            (top / each).mkdir(parents=True)
            (top / each / "file").touch()
        for name, target in {"out": "../victim", "in": "a", "loop": "loop", "up": ".."}.items():
            (top / "own" / name).symlink_to(target)
            (top / "own/b" / name).symlink_to(top / "own" / target)
        yield top


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@given(name=NAMES)
@example(name="..")
@example(name="../victim")
@example(name="/")
@example(name="a/../../victim")
@example(name="out")
@example(name="out/a")
@example(name="up/victim")
@example(name="b/out/a")
@example(name="in/b")
@example(name="a\0")
@profile(deadline=None, max_examples=20)
def test_no_name_leads_a_removal_out_of_its_folder(name: str) -> None:
    with world() as top:
        own = top / "own"
        before = tree(top)
        with suppress(ValueError, OSError):
            remove(own / name, own)
        gone = before - tree(top)
        assert all(each.is_relative_to(own / name) for each in gone)  # by its letters: nothing beside it, no other case
        assert own.is_dir()
        assert all(each.is_relative_to(own) for each in gone)


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/", "../own", "../victim", "/tmp", "a/../b", "a\0", "../own-too", "~/../.."]
)
def test_what_does_not_lie_below_is_refused(name: str) -> None:
    with world() as top, pytest.raises(ValueError, match=r"must lie below|not in the subpath"):
        remove(top / "own" / name, top / "own")


def test_a_folder_goes_with_all_below_it_and_what_links_lead_to_stays() -> None:
    with world() as top:
        victims = tree(top / "victim")
        for each in ("a", "b", "out", "up", "loop", "in", "in/b", "none", "A/file"):
            remove(top / "own" / each, top / "own")
        remove(top / "none/x", top / "none")
        assert tree(top / "own") == {top / "own/A"}
        assert tree(top / "victim") == victims


@pytest.mark.parametrize("way", ["out/a", "up/victim", "b/out/a", "in/b"])
def test_a_link_on_the_way_is_refused(way: str) -> None:
    with world() as top:
        before = tree(top)
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            remove(top / "own" / way, top / "own")
        assert tree(top) == before


def test_a_boundary_that_is_reached_by_links_is_one() -> None:
    with world() as top:
        (top / "way").symlink_to("own")
        remove(top / "way/a", top / "way")
        assert not (top / "own/a").exists()


@as_root
def test_a_folder_of_another_user_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "own/theirs").mkdir(parents=True)
    open_to_all(tmp_path / "own")
    (tmp_path / "own").chmod(0o777)
    with second_user():
        (tmp_path / "own/foreign").mkdir()
        (tmp_path / "own/foreign/file").touch()
    with pytest.raises(PermissionError, match="the folder foreign is not removed: it belongs to uid 65534"):
        remove(tmp_path / "own", tmp_path)
    assert (tmp_path / "own/foreign/file").exists()
    os.chown(tmp_path, 65534, 65534)  # then it is no other's: where all files are nobody's, as on NFS
    remove(tmp_path / "own", tmp_path)
    assert not (tmp_path / "own").exists()


@as_root
@needs_mounts
def test_a_mount_is_not_entered(tmp_path: Path) -> None:
    for each in ("own/mounted", "elsewhere/data"):
        (tmp_path / each).mkdir(parents=True)
    mount = ["mount", "--bind", str(tmp_path / "elsewhere"), str(tmp_path / "own/mounted")]
    subprocess.run(mount, check=True)
    try:
        with pytest.raises(PermissionError, match="the folder mounted is not removed: another file system"):
            remove(tmp_path / "own", tmp_path)
        assert (tmp_path / "elsewhere/data").exists()
    finally:
        subprocess.run(["umount", str(tmp_path / "own/mounted")], check=True)


def test_another_device_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own/mounted/data").mkdir(parents=True)
    monkeypatch.setattr(removal, "_mount", lambda folder: os.listdir(folder) == ["data"])
    with pytest.raises(PermissionError, match="the folder mounted is not removed"):
        remove(tmp_path / "own", tmp_path)
    assert (tmp_path / "own/mounted/data").exists()


def test_folders_nested_beyond_all_measure_are_an_error_of_the_system(tmp_path: Path) -> None:
    limit, name = sys.getrecursionlimit(), "d" * 10
    inner = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir(name, dir_fd=inner)
        deeper = os.open(name, os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = deeper
    os.close(inner)
    sys.setrecursionlimit(250)
    try:
        with pytest.raises(OSError, match=r"nested too deep"):
            remove(tmp_path / name, tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    remove(tmp_path / name, tmp_path)


REMOVES = {"rmtree", "unlink", "rmdir", "removedirs"}


def removals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from {each.name for each in node.names} & {*REMOVES, "remove", "move"}
        if isinstance(node, ast.Attribute):
            of = node.value.id if isinstance(node.value, ast.Name) else None
            if node.attr in REMOVES or (of, node.attr) in {("os", "remove"), ("shutil", "move")}:
                yield node.attr


def test_nothing_else_in_the_source_removes_files() -> None:
    """Scratch of tempfile's context managers aside."""
    package = Path(gmt.__file__).parent
    paths = [path for each in ("gmt", "launchers", "analysis") for path in (package.parent / each).rglob("*.py")]
    found = {path: list(removals(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}
    assert len(found) > 100
    assert [path for path, calls in found.items() if calls] == [Path(removal.__file__)]

"""A Ray that a sweep starts has a token and a folder that no other user can read, whatever TMPDIR and HOME are."""

import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from gmt_launchers import private_ray as module
from gmt_launchers.private_ray import private_ray
from ray._private import ray_constants

from gmt.errors import UserError


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A usual machine: TMPDIR can be written."""
    for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_SHORT_PLACES", (str(tmp_path / "short"),))
    monkeypatch.setattr(module, "_MAX_BYTES", len(str(tmp_path)) + 12)
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o000])
@pytest.mark.parametrize("home", ["/proc/nohome", None])
def test_token_and_folder_are_closed_to_other_users_and_the_token_ends_with_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None, umask: int
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    before = os.umask(umask)
    try:
        with suppress(KeyboardInterrupt), private_ray() as folder:
            token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
            private = folder.parent
            assert (private.parent, token.parent) == (tmp_path, private)
            assert (mode(private), mode(token)) == (0o700, 0o600)
            assert len(token.read_text()) == 64
            assert not ray_constants.ENABLE_RAY_CLUSTER
            raise KeyboardInterrupt
    finally:
        os.umask(before)
    assert not token.exists()
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert ray_constants.ENABLE_RAY_CLUSTER


def test_each_sweep_has_another_token_and_what_the_user_names_holds_again_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user's cluster")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "own"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    tokens = set()
    for _ in range(2):
        with private_ray():
            assert "RAY_AUTH_TOKEN" not in os.environ
            tokens.add(Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text())
        assert os.environ["RAY_AUTH_TOKEN"] == "of the user's cluster"
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "own")
    assert len(tokens) == 2


@pytest.mark.parametrize("asked", ["disabled", "Disabled", ""])
def test_a_ray_without_a_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", asked)
    with pytest.raises(UserError, match=f"RAY_AUTH_MODE must be token, or not set, .*, got {asked!r}"), private_ray():
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place",
    [lambda tmp: f"{tmp}/long-enough-a-name", lambda tmp: "/proc/x", lambda tmp: "here", lambda tmp: f"{tmp}/open"],
)
def test_a_place_that_cannot_hold_sockets_or_that_is_open_to_all_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], str]
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)  # without the sticky bit others could put their folder in place of ours
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, place(tmp_path))
        with private_ray() as folder:
            assert folder.parent.parent == tmp_path / "short"
    (tmp_path / "open").chmod(0o1777)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "open"))
    with private_ray() as folder:
        assert folder.parent.parent == tmp_path / "open"


def test_where_there_is_no_place_a_sentence_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/x")
    (tmp_path / "short").touch()
    rule = r"with a path of at most \d+ bytes, for Ray's sockets: RAY_TMPDIR must name one, got '/proc/x', and none of"
    with pytest.raises(UserError, match=rule), private_ray():
        pass


def test_logs_of_ended_sweeps_are_removed_after_a_week_and_nothing_else_is(tmp_path: Path) -> None:
    def folder(name: str, *, mode: int = 0o700, days: float = 8, inside: str = "ray") -> Path:
        (made := tmp_path / name).mkdir()
        (made / inside / "session").mkdir(parents=True)
        made.chmod(mode)
        os.utime(made, (time.time() - days * 24 * 3600,) * 2)
        return made

    old = folder("gmt-0123abc_")
    (tmp_path / "gmt-aaaaaaaa").symlink_to(folder("elsewhere"))
    kept = {
        folder("gmt-1-abcdef"),  # of Slurm's script
        folder("gmt-run-abcdefgh"),
        folder("gmt-bbbbbbbb", days=6),
        folder("gmt-cccccccc", mode=0o755),
        folder("gmt-dddddddd", inside="mine"),
        in_use := folder("gmt-eeeeeeee"),
        tmp_path / "gmt-aaaaaaaa",
        tmp_path / "elsewhere",
    }
    number = os.open(in_use, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    with private_ray() as own:
        assert not old.exists()
        assert {path for path in tmp_path.iterdir() if path != own.parent} == kept
    os.close(number)
    with private_ray() as own:
        assert not in_use.exists()
    assert own.parent.exists()

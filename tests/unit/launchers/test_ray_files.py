"""Ray on this machine has a folder for its sockets and a token, whatever TMPDIR and HOME are."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from gmt_launchers import ray_files as module
from gmt_launchers.ray_files import ray_files

from gmt.errors import UserError


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A usual machine: TMPDIR and HOME can be written."""
    for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(module, "_SHORT", (str(tmp_path),))
    monkeypatch.setattr(module, "_MOST_BYTES", len(str(tmp_path)) + 12)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_where_its_own_choice_serves_nothing_is_made(tmp_path: Path) -> None:
    with ray_files() as folder:
        assert folder is None
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "ray"]
    assert not list((tmp_path / "home").iterdir())


@pytest.mark.parametrize("place", [lambda tmp: f"{tmp}/long-enough-a-name", lambda tmp: "/proc/x", lambda tmp: "here"])
def test_a_folder_that_cannot_hold_sockets_is_replaced_by_a_private_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], str]
) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.setenv(name, place(tmp_path))
        with ray_files() as folder:
            private = tmp_path / f"gmt-{os.getuid()}"
            assert folder == str(private / "ray")
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("home", ["/proc/nohome", "/dev/null"])
def test_a_home_that_cannot_be_written_is_replaced_by_a_private_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    with ray_files() as folder:
        assert folder is None
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert token.parent == tmp_path / f"gmt-{os.getuid()}"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert len(token.read_text()) == 64
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert not token.exists()


@pytest.mark.parametrize("set_by_user", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_what_the_user_says_of_the_token_holds(monkeypatch: pytest.MonkeyPatch, set_by_user: str) -> None:
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv(set_by_user, "disabled")
    with ray_files() as folder:
        assert folder is None
        assert os.environ[set_by_user] == "disabled"


def test_a_folder_that_others_can_enter_or_that_is_a_link_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/x")
    private = tmp_path / f"gmt-{os.getuid()}"
    private.mkdir()
    private.chmod(0o755)
    with (
        pytest.raises(UserError, match=r"RAY_TMPDIR must name one, got '/proc/x/ray', and there is none of "),
        ray_files(),
    ):
        pass
    private.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="with a path of at most "), ray_files():
        pass

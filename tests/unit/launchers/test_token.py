"""The file with a joined cluster's token is used only where other users can neither read nor write it."""

import os
from pathlib import Path

import pytest
from gmt_launchers.cluster import connected
from gmt_launchers.token import use_token_if_there_is_one
from ray._raylet import AuthenticationTokenLoader

from gmt.errors import UserError
from tests.second_user import NOBODY, as_root


@pytest.fixture(params=["RAY_AUTH_TOKEN_PATH", "HOME"])
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The file that Ray would use."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("a" * 64)
    path.chmod(0o600)
    if request.param != "HOME":
        monkeypatch.setenv(request.param, str(path))
    return path


def token_that_ray_sends() -> str | None:
    """Return the token that Ray would send to a cluster; None where it has none."""
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    return loader.get_raw_token() if loader.has_token(ignore_auth_mode=True) else None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602, 0o604, 0o660])
def test_a_token_that_others_can_read_or_write_is_refused(token: Path, mode: int) -> None:
    token.chmod(mode)
    sentence = f"the file with Ray's token must be closed to other users, got mode {mode:o}: chmod 600 {token}"
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "auto"):
        with pytest.raises(UserError, match=f"^{sentence}$"), connected(address, None):
            pass
    for closed in (0o600, 0o400):
        token.chmod(closed)
        use_token_if_there_is_one()
        assert token_that_ray_sends() == "a" * 64


def test_a_token_in_the_environment_is_used_and_no_file_is_looked_at(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    use_token_if_there_is_one()
    assert token_that_ray_sends() == "b" * 64


@as_root
def test_a_token_of_another_user_is_refused(token: Path) -> None:
    os.chown(token, NOBODY, -1)
    with pytest.raises(UserError, match=f"must be yours, but {token} is user {NOBODY}'s"):
        use_token_if_there_is_one()


def test_where_no_token_is_there_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    for home in ("/proc/nohome", "/dev/null"):
        monkeypatch.setenv("HOME", home)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        use_token_if_there_is_one()
        assert token_that_ray_sends() is None

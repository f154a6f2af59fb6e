from pathlib import Path

import pytest

from gmt.credentials import names_a_secret, refuse_secrets, without_secrets
from gmt.errors import UserError

SECRET = "s3cret-s3cret"


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match=r"tracking.uri=postgresql://me:\*\*\*@host/db'; use the environment") as caught:
        refuse_secrets("an override", f"tracking.uri=postgresql://me:{SECRET}@host/db", "use the environment")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "FLASK_SECRET_KEY"]
)
def test_a_secret_of_the_environment_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    assert names_a_secret(name)
    with pytest.raises(UserError) as caught:
        refuse_secrets("an override", f"model.token={SECRET}", "")
    assert SECRET not in str(caught.value)


def test_the_token_in_rays_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(SECRET + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError):
        refuse_secrets("an override", f"x={SECRET}", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:s3/cr@t@host/db", "postgresql+psycopg://me:***@host/db"),
        ("https://s3cret@host/", "https://***@host/"),
        ("https://me:s3@cret@host/path", "https://me:***@host/path"),
        ("https://s3@cret@host", "https://***@host"),
        ("http://a:s3cret@x,http://b:s3cret@y", "http://a:***@x,http://b:***@y"),
        ("https://host/x?user=me&access_token=s3cret&b=1", "https://host/x?user=me&access_token=***&b=1"),
        ("postgresql://host/db?user=me&password=s3cret", "postgresql://host/db?user=me&password=***"),
    ],
)
def test_a_secret_in_an_address_is_masked(text: str, shown: str) -> None:
    assert without_secrets({"uri": [text]}) == {"uri": [shown]}


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@host/db",
        "https://host:80/owner/name@main",
        "tracking.uri=http://host:5000",
        "task.name=tokens",
        "method.mask_ratio=0.5",
    ],
)
def test_what_holds_no_secret_passes(text: str) -> None:
    refuse_secrets("an override", text, "")
    assert not names_a_secret("TOKENIZERS_PARALLELISM")

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import make_url

from gmt.credentials import names_a_secret, refuse_secrets, without_secrets
from gmt.errors import UserError
from gmt.tracking.settings import TrackingSettings

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
        ("http://a:s3cret@x,http://b:s3cret@y", "http://a:***@y"),  # a password may hold anything up to the last @
        ("http://me:s3/cr et@host:1", "http://me:***@host:1"),
        ("postgresql://me:s3 cret'#@host/db", "postgresql://me:***@host/db"),
        ("tracking.uri=http://me:80/s3cret@host", "tracking.uri=http://***@host"),
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
        "http://host:5000 does not answer, write to me@host",
        "tracking.uri=http://host:5000",
        "task.name=tokens",
        "method.mask_ratio=0.5",
    ],
)
def test_what_holds_no_secret_passes(text: str) -> None:
    refuse_secrets("an override", text, "")
    assert not names_a_secret("TOKENIZERS_PARALLELISM")


SCHEMES = ("http", "https", "postgresql", "postgresql+psycopg", "mysql+pymysql")
LETTERS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)


@given(scheme=st.sampled_from(SCHEMES), letters=st.one_of(LETTERS, st.text("/@:?#%[]'\" \\&=+,;", max_size=8)))
@example(scheme="http", letters="/b")
@example(scheme="postgresql", letters=" @/#?%'\"")
@example(scheme="https", letters="://x:y@z")
def test_no_letter_of_a_password_is_shown(scheme: str, letters: str) -> None:
    uri = f"{scheme}://me:Zq{letters}qZ@host:1/x"
    for text in (uri, repr(uri), f"tracking.uri='{uri}'", f"sqlite:///a.db or {uri} failed: no route to me@host"):
        shown = without_secrets(text)
        assert "Zq" not in shown
        assert "qZ" not in shown


@given(scheme=st.sampled_from(SCHEMES), user=LETTERS.filter(lambda user: ":" not in user), password=LETTERS)
@example(scheme="http", user="me", password="a/b")
@example(scheme="http", user="me", password="80/b")
@example(scheme="http", user="me", password="%E4%B8%AD")
@example(scheme="postgresql", user="me", password="p@x/y")
@example(scheme="postgresql", user="m/e", password="p")
def test_an_address_is_read_whole_or_refused_without_its_password(scheme: str, user: str, password: str) -> None:
    uri = f"{scheme}://{user}:{password}@host:1/x"
    refused = None
    try:
        TrackingSettings(uri=uri, artifacts=None, experiment="e")
    except UserError as error:
        refused = str(error)
    if refused is not None:
        assert refused.startswith("the user and password in tracking.uri must be percent-encoded")
        assert refused.endswith(": ***@host:1/x")
    else:
        parts = urlsplit(uri) if scheme.startswith("http") else None
        read = parts or make_url(uri)
        assert read.port == 1
        found = [str(each or "") for each in (read.username, read.password)]
        assert [unquote(user), unquote(password)] == (found if read is not parts else [*map(unquote, found)])
    quoted = f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@host:1/x"
    if not scheme.startswith("http") or (user + password).isascii():
        TrackingSettings(uri=quoted, artifacts=None, experiment="e")  # as the sentence tells


@pytest.mark.parametrize("uri", ["http://host:abc", "postgresql://host:abc/db", "http://[::1", "postgresql:host"])
def test_an_address_that_is_none_is_a_sentence(uri: str) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri must be an address"):
        TrackingSettings(uri=uri, artifacts=None, experiment="e")


def test_a_prompt_with_an_address_and_an_at_sign_is_no_secret() -> None:
    prompt = "Read http://example.org: {prompt} and answer with @end"
    refuse_secrets("the config", prompt, "", is_data=True)
    assert without_secrets({"task": {"template": prompt}}, is_data=True) == {"task": {"template": prompt}}
    with pytest.raises(UserError):
        refuse_secrets("the config", "data at http://me:s3cret@host", "", is_data=True)

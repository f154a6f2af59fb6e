import time
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
def test_texts_without_secrets_pass(text: str) -> None:
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
def test_an_invalid_address_is_refused_in_a_sentence(uri: str) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri must be an address"):
        TrackingSettings(uri=uri, artifacts=None, experiment="e")


def test_a_prompt_with_an_address_and_an_at_sign_is_no_secret() -> None:
    prompt = "Read http://example.org: {prompt} and answer with @end"
    refuse_secrets("the config", prompt, "", is_data=True)
    assert without_secrets({"task": {"template": prompt}}, is_data=True) == {"task": {"template": prompt}}
    with pytest.raises(UserError):
        refuse_secrets("the config", "data at http://me:s3cret@host", "", is_data=True)


NAMES = (
    *("GITHUB_PAT", "MYSQL_PWD", "SSH_PASSPHRASE", "OPENAI_KEY", "AZURE_STORAGE_CONNECTION_STRING", "SENTRY_DSN"),
    *("HF_TOKENS", "SLACK_WEBHOOK", "SLACK_WEBHOOK_URL", "DB_PASS", "DB_CONN_STR", "REGISTRY_AUTH", "session_cookie"),
)
HARMLESS_NAMES = (
    *("NUM_TOKENS", "MAX_TOKENS", "max_new_tokens", "TOKENIZER", "TOKENIZERS_PARALLELISM", "PAD_TOKEN", "EOS_TOKEN"),
    *("PWD", "OLDPWD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "HF_TOKEN_PATH", "SSH_AUTH_SOCK", "GIT_ASKPASS", "KEY"),
    *("MONKEY", "PATH", "HF_HOME", "KEYBOARD", "COMPASS", "KEYS", "PASSES", "BYPASS", "SECRETARY", "DSN_TIMEOUT"),
)
TOKENS = (
    *(
        "hf_" + "aB3" * 11,
        "hf_" + "x" * 34,
        "sk-" + "aB3" * 16,
        "sk-proj-" + "aB3_" * 20,
        "sk-ant-api03-" + "aB3-" * 20,
    ),
    *(
        "ghp_" + "aB3" * 12,
        "gho_" + "aB3" * 12,
        "github_pat_" + "aB3_" * 20,
        "glpat-" + "aB3-" * 5,
        "AKIA" + "AB34" * 4,
    ),
    *(
        "xoxb-12345678-aBcDeF",
        "AIza" + "aB3_-" * 7,
        "npm_" + "aB3" * 12,
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2Q",
    ),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_telling_name_makes_a_secret_of_its_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_a_secret(name)
    monkeypatch.setenv(name, SECRET)
    assert without_secrets(f"a line with {SECRET} in it") == "a line with *** in it"
    if name.isupper():
        monkeypatch.delenv(name)
        for text in (
            f"export {name}={SECRET}",
            f"{name}='{SECRET}' run",
            f'A=1 {name}="{SECRET} b"',
            f"--{name}={SECRET}",
        ):
            assert SECRET not in without_secrets(text)
            assert name in without_secrets(text)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_other_names_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not names_a_secret(name)
    monkeypatch.setenv(name, "some harmless value")
    refuse_secrets("an override", f"export {name}=harmless and some harmless value", "")


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_of_a_known_kind_is_found_wherever_it_stands(token: str) -> None:
    for text in (
        token,
        f"model.token={token}",
        f"'{token}'",
        f"https://host/{token}/x",
        f"a {token}, and more",
        f"({token})",
    ):
        for is_data in (False, True):
            shown = without_secrets(text, is_data=is_data)
            assert token not in shown
            assert shown.replace("***", token) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "https://b.s3.amazonaws.com/x?X-Amz-Credential=A&X-Amz-Signature=s3cret",
            "https://b.s3.amazonaws.com/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        (
            "https://a.blob.core.windows.net/c?sv=1&sig=s3%2Bcret&se=2",
            "https://a.blob.core.windows.net/c?sv=1&sig=***&se=2",
        ),
        ("Authorization: Bearer s3cret-s3cret", "Authorization: Bearer ***"),
        (
            "post to https://hooks.slack.com/services/T0/B0/s3cret now",
            "post to https://hooks.slack.com/services/*** now",
        ),
        ("AccountName=a;AccountKey=s3cret==;X=1", "AccountName=a;AccountKey=***;X=1"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\ns3cret\n-----END KEY-----", "***-----END KEY-----"),
    ],
)
def test_a_secret_is_found_by_the_name_before_it(text: str, shown: str) -> None:
    assert without_secrets(text) == without_secrets(text, is_data=True) == shown


HARMLESS = (
    *(
        "train.num_tokens=100000",
        "max_tokens: 4096",
        "model.tokenizer=meta-llama/Llama-3.2-1B",
        "task.max_new_tokens=128",
    ),
    *(
        "task.columns={prompt: question, answer: answer, key: id}",
        "columns.key=primary_key",
        "+pad_token='<|endoftext|>'",
    ),
    *(
        "task-averyveryverylongnameofataskwithoutanend",
        "risk-averse-and-long-enough-to-be-a-token",
        "hf_model",
        "sk-learn",
    ),
    *("the bearer of bad news", "a Standard Bearer of theirs", "Bearer {token}", "disk-1234567890123456789012"),
    *(
        "commit 0123456789abcdef0123456789abcdef01234567",
        "run 7d5a9c4c7cf5d84d",
        "https://host/x?max_tokens=12&key=id&page=2",
    ),
    *(
        "export HF_TOKEN=$(cat ~/.hf)",
        'export HF_TOKEN="$TOKEN"',
        "+cluster.secrets.HF_TOKEN={name: huggingface, key: token}",
    ),
    *(
        "RAY_AUTH_TOKEN_PATH=/home/me/.ray/auth_token",
        "source ~/secrets.sh",
        "module load cuda",
        "gmt run [KEY=VALUE ...]",
    ),
    *(
        "NUM_TOKENS=4096",
        "PWD=/home/me/work",
        "sha256:" + "ab" * 32,
        "AKIA and ASIA",
        "ghp_ and gho_",
        "Signature of a method",
    ),
)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_settings_and_sentences_pass(text: str) -> None:
    refuse_secrets("an override", text, "")
    refuse_secrets("the config", text, "", is_data=True)
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "piece", ["sk-", "sk-a", "eyJ-", "eyJa.", "Bearer ", "A_KEY", "A_KEY='", "?a_key", "-----BEGIN ", "://a:b "]
)
def test_a_text_of_any_letters_takes_no_long_time(piece: str) -> None:
    started = time.process_time()
    without_secrets(piece * 30_000)
    assert time.process_time() - started < 2


def test_a_program_in_a_prompt_may_assign_to_any_name() -> None:
    prompt = "Complete: API_KEY=abc"
    refuse_secrets("the config", prompt, "", is_data=True)
    assert without_secrets(prompt, is_data=True) == prompt


FILES = {
    "Ray's own": (".ray/auth_token", {}, "{}"),
    "Ray's that is named": ("x/ray", {"RAY_AUTH_TOKEN_PATH": "x/ray"}, "{}\n"),
    "the hub's own": (".cache/huggingface/token", {}, "{}"),
    "the hub's, below XDG_CACHE_HOME": ("c/huggingface/token", {"XDG_CACHE_HOME": "c"}, "{}"),
    "the hub's, below HF_HOME": ("h/token", {"HF_HOME": "h"}, "{}"),
    "the hub's that is named": ("t/of-hub", {"HF_TOKEN_PATH": "t/of-hub"}, "{}"),
    "the hub's stored ones": (".cache/huggingface/stored_tokens", {}, "[mine]\nhf_token = {}\n"),
    "the stored ones beside it": ("t/stored_tokens", {"HF_TOKEN_PATH": "t/of-hub"}, "[mine]\nhf_token = {}\n"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_tokens_in_the_files_of_ray_and_the_hub_are_known(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, variables, content = FILES[case]
    for variable in ("RAY_AUTH_TOKEN_PATH", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(tmp_path / value))
    refuse_secrets("an override", SECRET, "")
    (tmp_path / name).parent.mkdir(parents=True)
    for secret in (SECRET, f"{SECRET}-too"):  # it is read anew when it changes
        (tmp_path / name).write_text(content.format(secret))
        assert without_secrets(f"x {secret} y") == "x *** y"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"short"])
def test_a_token_file_that_holds_none_masks_nothing(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_bytes(content)
    for path in (tmp_path / "token", tmp_path):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
        refuse_secrets("an override", "a short text", "")
        assert without_secrets("a short text") == "a short text"


def test_a_variable_that_names_a_secrets_file_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    refuse_secrets("an override", f"record.root={tmp_path}", "")
    assert without_secrets(f"record.root={tmp_path}") == f"record.root={tmp_path}"


def test_keys_tuples_and_sets_are_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    value = {SECRET: [(SECRET, {"a": {SECRET}}), frozenset({SECRET}), 1, None, 2.5]}
    assert without_secrets(value) == {"***": [("***", {"a": {"***"}}), frozenset({"***"}), 1, None, 2.5]}

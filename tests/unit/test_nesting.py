"""A user's file that is nested deeper than Python can read is refused in one sentence, wherever it is read."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.models.pretrained import SHIPPED
from gmt.records.reading import objects_of
from gmt.tasks.chat import set_template
from gmt.tasks.rows import Source
from tests.models import pretrained

DEEP = "[" * 3000 + "]" * 3000

# A study's yaml, by what is wrong with it.
YAML = {
    "a: " + "[" * 500 + "]" * 500: "a config must not include itself, and must not be nested too deep",
    "a: " + "{a: " * 150 + "1" + "}" * 150: "a config must not include itself, and must not be nested too deep",
    "a: &it [*it]": "a config must not include itself, and must not be nested too deep",
    "defaults: [own]": "must not include itself",
    "a: [": r"a config can't be read: while parsing .*own\.yaml\", line",
    "a: 1\na: 2": "a config can't be read: .*duplicate key a",
    "a: *b": "a config can't be read: found undefined alias 'b'",
    "a: !python/object x": "a config can't be read: could not determine a constructor",
    "a: \t b: c": "a config can't be read: while scanning",
    "a: \x07": "a config can't be read: unacceptable character",
    "a: \xff": r"a config must be UTF-8 text \('utf-8' codec can't decode byte 0xff",
    "defaults: 3": "a config can't be read: Invalid defaults list in 'study/own'",
    "a: !!set {a, b}": "Value 'set' is not a supported primitive type",
    "null: b": "Incompatible key type 'NoneType'",
}


@pytest.fixture
def composer(tmp_path: Path) -> Iterator[Composer]:
    (tmp_path / "study").mkdir()
    with hydra_on(str(tmp_path)):
        yield Composer()


@pytest.mark.parametrize("text", YAML, ids=lambda text: ascii(text[:20]))
def test_a_config_that_cannot_be_read_is_a_sentence(composer: Composer, tmp_path: Path, text: str) -> None:
    (tmp_path / "study" / "own.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=YAML[text]) as refusal:
        composer.compose_plain(["study=own"])
    assert len(str(refusal.value)) < 400


def test_an_error_of_ours_is_no_fault_of_a_config() -> None:
    from gmt.composition import user_errors

    def endless() -> None:
        endless()

    with pytest.raises(RecursionError), user_errors():
        endless()
    with pytest.raises(ValueError, match="ours"), user_errors():
        raise ValueError("ours")


@pytest.mark.heavy
def test_a_folder_of_rows(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(f'{{"a": {DEEP}}}\n')
    source = Source(setting="task.data", path=str(tmp_path), subset=None, revision=None, split="train")
    with pytest.raises(UserError, match=r"train\.jsonl must not be nested so deep"):
        source.rows()


@pytest.mark.heavy
@pytest.mark.parametrize("text", ["{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{% if 1 %}" * 3000])
def test_a_chat_template(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.jinja").write_text(text)
    with pytest.raises(UserError, match=r"task\.chat_template can't be rendered"):
        set_template(pretrained().load_tokenizer(), str(tmp_path / "own.jinja"))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_a_file_of_a_model(tmp_path: Path, name: str) -> None:
    shutil.copytree(SHIPPED / "nano", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(f'{{"a": {DEEP}}}')
    if "index" in name:  # of weights that are there whole
        assert pretrained(str(tmp_path)).fingerprint()
        return
    with pytest.raises(UserError, match="that transformers can load"):
        pretrained(str(tmp_path), trust_remote_code=True).load_tokenizer()


def test_a_line_of_a_record(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2, can't be read"):
        objects_of(["{}", f'{{"a": {DEEP}}}'], tmp_path / "drops.jsonl")

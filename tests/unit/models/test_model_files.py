"""A model's part of the run id covers every byte that loading reads, and nothing else."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gmt.errors import UserError
from gmt.models.model_files import files_of
from gmt.models.pretrained import SHIPPED, PretrainedModel
from tests.models import pretrained

NO_MATTER = ("README.md", ".gitattributes", ".git/HEAD", ".cache/huggingface/x.json", "training_args.bin", "events.out")
CONFIGURATION = """
from transformers import LlamaConfig
class MineConfig(LlamaConfig):
    model_type = "mine"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_mine import MineConfig
from .layers import HALF
class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""
TOKENIZATION = """
import os
from transformers import PreTrainedTokenizerFast
class MineTokenizer(PreTrainedTokenizerFast):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with open(os.path.join(self.name_or_path, "words", "vocab.bin"), "rb") as file:
            file.read()
"""


class Opened:
    """The files below a folder that Python opens; Rust's reading of safetensors and tokenizer.json is not seen."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.files: set[str] = set()
        sys.addaudithook(self._on)

    def _on(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = Path(os.fsdecode(arguments[0]))
            if path.is_relative_to(self.root) and path.is_file():
                self.files.add(path.relative_to(self.root).as_posix())

    def of(self, folder: Path, do: Callable[[], object]) -> set[str]:
        self.root, self.files = folder, set()
        try:
            do()
        finally:
            self.root = None
        return self.files


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()  # an audit hook stays for the life of the process


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The copies that transformers makes of a model's own code."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def plain(folder: Path) -> dict[str, Any]:
    shutil.copytree(SHIPPED / "nano", folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    special = {"eos_token": json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]}
    edit_json(folder / "special_tokens_map.json", **special)
    edit_json(folder / "added_tokens.json")
    return {}


def in_shards(folder: Path) -> dict[str, Any]:
    plain(folder)
    (folder / "shards").mkdir()
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2])):
        name = f"{'shards/' if number else ''}model-{number + 1:05}-of-00002.safetensors"
        save_file({each: tensors[each] for each in part}, folder / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / "model.safetensors").unlink()
    edit_json(folder / "model.safetensors.index.json", metadata={}, weight_map=places)
    return {}


def with_code(folder: Path) -> dict[str, Any]:
    plain(folder)
    for name, text in {
        "configuration_mine.py": CONFIGURATION,
        "modeling_mine.py": MODELING,
        "tokenization_mine.py": TOKENIZATION,
        "layers.py": "HALF = 0.5\n",
        "words/vocab.bin": "abc",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    classes = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    edit_json(folder / "config.json", model_type="mine", auto_map=classes)
    tokenizer = {
        "tokenizer_class": "MineTokenizer",
        "auto_map": {"AutoTokenizer": [None, "tokenization_mine.MineTokenizer"]},
    }
    edit_json(folder / "tokenizer_config.json", **tokenizer)
    return {"trust_remote_code": True}


def with_word_lists(folder: Path) -> dict[str, Any]:
    """A tokenizer in its older files."""
    plain(folder)
    (folder / "tokenizer.json").unlink()
    letters = {chr(number): number for number in range(33, 127)} | {"<|endoftext|>": 0, "ab": 1}
    edit_json(folder / "vocab.json", **letters)
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "extra_special_tokens": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    edit_json(folder / "special_tokens_map.json", eos_token="<|endoftext|>")
    return {}


def load(model: PretrainedModel) -> None:
    model.load_config()
    model.load_tokenizer()
    model.base()


@pytest.mark.parametrize("made", [plain, in_shards, with_code, with_word_lists], ids=lambda made: made.__name__)
def test_every_file_that_is_opened_is_in_the_id_and_what_does_not_matter_is_not(
    tmp_path: Path, opened: Opened, made: Callable[[Path], dict[str, Any]]
) -> None:
    folder = tmp_path / "model"
    settings = made(folder)
    if not settings:
        for name in NO_MATTER:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_text("a")
    model = pretrained(path=str(folder), **settings)
    before = model.fingerprint()  # reads all, once
    read = opened.of(folder, lambda: load(model))
    assert len(read) >= 6
    covered = {path.relative_to(folder).as_posix() for path in files_of(folder, with_code=bool(settings))}
    assert read <= covered
    assert any(name.endswith(".safetensors") for name in covered)  # read by Rust
    for name in covered:
        whole = (folder / name).read_bytes()
        for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
            changed = bytearray(whole)
            changed[place] ^= 1
            (folder / name).write_bytes(changed)
            assert pretrained(path=str(folder), **settings).fingerprint() != before, name
        (folder / name).write_bytes(whole)
    for name in NO_MATTER if not settings else ("README.md", ".git/HEAD"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("b")
    assert model.fingerprint() == before


def test_a_file_that_appears_or_is_called_otherwise_is_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    plain(folder)
    seen = {pretrained(path=str(folder)).fingerprint()}
    (folder / "vocab.tiktoken").write_text("a")
    seen.add(pretrained(path=str(folder)).fingerprint())
    (folder / "vocab.tiktoken").rename(folder / "qwen.tiktoken")
    seen.add(pretrained(path=str(folder)).fingerprint())
    templates = folder / "additional_chat_templates"
    (templates / "tools.jinja").rename(templates / "rag.jinja")
    seen.add(pretrained(path=str(folder)).fingerprint())
    assert len(seen) == 4


def test_code_is_in_the_id_only_where_it_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    plain(folder)
    before = pretrained(path=str(folder)).fingerprint()
    (folder / "modeling_mine.py").write_text("")
    assert pretrained(path=str(folder)).fingerprint() == before
    assert pretrained(path=str(folder), trust_remote_code=True).fingerprint() != before


def test_the_files_of_each_tokenizer_of_transformers_are_in_the_id(tmp_path: Path) -> None:
    sources = (Path(transformers.__file__).parent / "models").glob("*/tokenization*.py")
    blocks = re.findall(r"VOCAB_FILES_NAMES = \{.*?\}", "".join(path.read_text() for path in sources), re.DOTALL)
    names = {name for block in blocks for name in re.findall(r'"([\w.-]+\.\w+)"', block)}
    assert len(names) > 20
    for name in (*names, "tekken.json", "tokenizer.model.v3", "tiktoken.model", "spm.model"):
        (tmp_path / name).write_text("a")
    assert {path.name for path in files_of(tmp_path, with_code=False)} == {path.name for path in tmp_path.iterdir()}


def test_the_ids_of_models_without_such_files_are_as_ever() -> None:
    # A change here makes every run that was ever recorded a stranger: never without a note in CHANGELOG.
    assert pretrained().fingerprint() == "sha256:10e586e7eb6f583a9bb54d9e78def828"
    assert pretrained(trust_remote_code=True).fingerprint() != pretrained().fingerprint()


def test_files_read_beside_a_gguf_file_are_in_the_id(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_text("GGUF")
    model = pretrained(source="gguf", gguf=str(file))
    alone = model.fingerprint()
    (tmp_path / "README.md").write_text("a")
    (tmp_path / "other.safetensors").write_text("a")
    assert model.fingerprint() == alone
    seen = {alone}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (tmp_path / name).write_text("{}")
        seen.add(model.fingerprint())
    assert len(seen) == 5


def test_a_folder_that_does_not_hold_exactly_the_whole_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    settings = with_code(folder)
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "some/body--modeling.Mine"})
    with pytest.raises(UserError, match=r"model\.path must hold the code .*config\.json takes it from another"):
        pretrained(path=str(folder), **settings)
    pretrained(path=str(folder))  # where no code is run it does not matter
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.path must name a whole model, got .* which also holds an adapter"):
        pretrained(path=str(folder))


def test_weights_change_with_a_models_own_code(tmp_path: Path) -> None:
    """Loading after an edit runs the new code: the id and what is done agree."""
    folder = tmp_path / "model"
    settings = with_code(folder)
    ids = torch.arange(4).view(1, -1)
    before = pretrained(path=str(folder), **settings).load_model()(input_ids=ids).logits
    half = "    def forward(self, *a, **k):\n        o = super().forward(*a, **k)\n        o.logits = o.logits * HALF\n"
    (folder / "modeling_mine.py").write_text(MODELING + half + "        return o\n")
    after = pretrained(path=str(folder), **settings).load_model()(input_ids=ids).logits
    assert torch.equal(after, before / 2)

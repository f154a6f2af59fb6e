"""A causal LM of transformers, from a hub id, a local folder, or what ships inside (`shipped:NAME`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError, choices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHIPPED = Path(__file__).parent / "shipped"
_SHIPPED_PREFIX = "shipped:"
_PARTS = {"config.json": "config.json", "*.safetensors": "*.safetensors", "a tokenizer": "tokenizer*"}
_FINGERPRINTED = {".json", ".safetensors", ".model", ".txt", ".jinja"}


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A pretrained causal LM, loaded from safetensors only, without remote code.

    Args:
        name: the word for it in tables.
        path: a local folder, `shipped:NAME`, or a hub id such as `HuggingFaceTB/SmolLM2-135M`.
        revision: for a hub id: the commit, branch or tag; null elsewhere.

    Raises:
        UserError: a local folder that lacks a config, weights or a tokenizer, or a shipped name that is none.
    """

    name: str
    path: str
    revision: str | None

    def __post_init__(self) -> None:
        settings.text("model.name", self.name)
        settings.text("model.path", self.path)
        if (folder := self._folder()) is not None:
            _check_folder(self.path, folder)
            if self.revision is not None:
                raise UserError(f"model.revision must be null for a local folder, got {self.revision!r}")

    def fingerprint(self) -> str:
        """A hash of the files of a local folder, or id and revision of a hub model."""
        folder = self._folder()
        if folder is None:
            return f"hub:{self.path}@{self.revision}"
        files = sorted(p for p in folder.iterdir() if p.suffix in _FINGERPRINTED)
        return _hash_files(tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in files))

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer by AutoTokenizer; where it has no pad token, the end-of-sequence token pads."""
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self._source(), revision=self.revision)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def base(self) -> PreTrainedModel:
        """The model by AutoModelForCausalLM, loaded once for a process; its weights are shared by those of a node."""
        return _base(self._source(), self.revision, self.fingerprint())

    def load_model(self) -> PreTrainedModel:
        """A copy of the base."""
        from gmt.models.base_weights import fresh

        return fresh(self.base())

    def _source(self) -> str:
        return str(self._folder() or self.path)

    def _folder(self) -> Path | None:
        if self.path.startswith(_SHIPPED_PREFIX):
            return SHIPPED / self.path.removeprefix(_SHIPPED_PREFIX)
        folder = Path(self.path).expanduser()
        looks_local = self.path.startswith((".", "/", "~")) or folder.exists()
        return folder if looks_local else None


def _check_folder(path: str, folder: Path) -> None:
    if path.startswith(_SHIPPED_PREFIX) and not folder.is_dir():
        shipped = [p.name for p in SHIPPED.iterdir() if p.is_dir()] if SHIPPED.is_dir() else []
        wanted = path.removeprefix(_SHIPPED_PREFIX)
        raise UserError(f"model.path names no model that ships inside: {wanted!r}; {choices(wanted, shipped)}")
    if not folder.is_dir():
        raise UserError(f"model.path must be a model folder, got {path!r}, which is no folder")
    missing = [what for what, pattern in _PARTS.items() if not any(folder.glob(pattern))]
    if missing:
        raise UserError(
            f"model.path must be a model folder with {', '.join(_PARTS)}; {path!r} has no {', '.join(missing)}"
        )


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hashes names and contents; cached by modification time and size, since a plan asks once for each run."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:32]}"


@lru_cache(maxsize=2)
def _base(source: str, revision: str | None, fingerprint: str) -> PreTrainedModel:
    """Loads a base; the fingerprint is there to load a folder anew whose files have changed."""
    from gmt.models.base_weights import load_base

    return load_base(source, revision)

"""The files of a model's folder that decide what is loaded, and what a folder must not hold. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from gmt.errors import UserError
from gmt.file_digests import sha256_of

# What transformers 5.23 reads of a folder; tests/unit/models/test_model_files.py holds this against what it opens.
_SUFFIXES = frozenset(
    {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".spm", ".codes", ".tokenizer"}
)
_VERSIONED = "tokenizer.model."  # Mistral's tokenizer.model.v3
_MORE_TEMPLATES = "additional_chat_templates"
_INDEX = "*.safetensors.index.json"  # may name shards in folders
_ADAPTER = "adapter_config.json"
_NOTHING_TO_CODE = frozenset({".md", ".pyc"})  # of what a model's own code might read

PATTERNS = (*(f"*{suffix}" for suffix in sorted(_SUFFIXES)), f"{_VERSIONED}*")
"""The same for files of the hub."""


def files_of(folder: Path, *, with_code: bool) -> list[Path]:
    """Return the files of a folder that decide what model and tokenizer are, in the order in which they are hashed.

    Args:
        folder: of a model.
        with_code: whether Python files there are run: they may read any file beside them.
    """
    found = {p for p in folder.iterdir() if p.suffix in _SUFFIXES or p.name.startswith(_VERSIONED)}
    found |= set((folder / _MORE_TEMPLATES).glob("*.jinja"))
    for index in folder.glob(_INDEX):
        found |= {folder / name for name in _shards(index) if (folder / name).is_file()}
    if with_code:
        found |= {p for p in folder.rglob("*") if p.suffix not in _NOTHING_TO_CODE and not _is_hidden(p, folder)}
    return sorted(p for p in found if p.is_file())


def files_beside(file: Path) -> list[Path]:
    """Return a GGUF file, then what transformers may read beside it: a tokenizer's files, chat templates, configs."""
    return [file, *(p for p in files_of(file.parent, with_code=False) if p.suffix != ".safetensors")]


def _shards(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return set()  # transformers refuses it when the weights are loaded


def no_object_in(folder: Path) -> Path | None:
    """Return a JSON file of a model's folder that holds no JSON object, as each must; None if there is none."""
    for file in sorted(folder.glob("*.json")):
        with suppress(ValueError, RecursionError):  # which transformers refuses by itself
            if not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
                return file
    return None


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)


def hash_of(files: Sequence[Path], root: Path) -> str:
    """Return a hash of the names, as seen from `root`, and contents of files."""
    return _hash(tuple((p, p.stat().st_ctime_ns, p.stat().st_size) for p in files), root)


@lru_cache(maxsize=64)
def _hash(files: tuple[tuple[Path, int, int], ...], root: Path) -> str:
    """Cached by time of change and size, since a plan asks once for each run."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(bytes.fromhex(sha256_of(path)))
    return f"sha256:{digest.hexdigest()[:32]}"


def check_whole(setting: str, path: str, folder: Path, *, with_code: bool) -> None:
    """Refuse a folder whose model would be made of more than the folder holds.

    Args:
        setting: that names it, e.g. `model.path`.
        path: its value.
        folder: where it lies.
        with_code: whether code that comes with the model is run.

    Raises:
        UserError: it holds an adapter too, or its code lies in another repository of the hub.
    """
    if (folder / _ADAPTER).exists():
        raise UserError(
            f"{setting} must name a whole model, got {path!r}, where an adapter lies too ({_ADAPTER}): "
            "merge it into the weights first (peft's merge_and_unload), or move it elsewhere"
        )
    for name in ("config.json", "tokenizer_config.json") if with_code else ():
        for reference in _code_elsewhere(folder / name):
            raise UserError(
                f"{setting} must hold the code that model.trust_remote_code=true runs, got {path!r}, whose {name} "
                f"takes it from elsewhere ({reference}), where nothing pins it: copy its files into a local folder"
            )


def _code_elsewhere(config: Path) -> list[str]:
    """Return the references of an `auto_map` to other repositories, e.g. `owner/name--modeling.Class`."""
    try:
        mapped = json.loads(config.read_text(encoding="utf-8")).get("auto_map") or {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return []  # transformers refuses what is no JSON when it is loaded
    listed = mapped.values() if isinstance(mapped, dict) else [mapped]
    references = [name for value in listed for name in (value if isinstance(value, list) else [value])]
    return [name for name in references if isinstance(name, str) and "--" in name]

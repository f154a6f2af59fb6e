"""Finds the files in a model's folder that decide what is loaded, and refuses unsuitable folders. Imports no torch."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from gmt.errors import UserError

# The files that transformers 5.23 reads; tests/unit/models/test_model_files.py compares them with the opened files.
_SUFFIXES = frozenset(
    {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".spm", ".codes", ".tokenizer"}
)
_VERSIONED = "tokenizer.model."  # Mistral's tokenizer.model.v3
_MORE_TEMPLATES = "additional_chat_templates"
_INDEX = "*.safetensors.index.json"  # may name shards in folders
_ADAPTER = "adapter_config.json"
_NOT_READ_BY_CODE = frozenset({".md", ".pyc"})  # other files may be read by a model's own code

PATTERNS = (*(f"*{suffix}" for suffix in sorted(_SUFFIXES)), f"{_VERSIONED}*")
"""Patterns of the files to download from the hub."""


def files_of(folder: Path, *, with_code: bool) -> list[Path]:
    """Return the files of a folder that decide which model and tokenizer are loaded, sorted.

    Args:
        folder: the model's folder.
        with_code: whether the model's own code runs; since it may read any file of the folder, all files then count.
    """
    files = {p for p in folder.iterdir() if p.suffix in _SUFFIXES or p.name.startswith(_VERSIONED)}
    files |= set((folder / _MORE_TEMPLATES).glob("*.jinja"))
    for index in folder.glob(_INDEX):
        files |= {folder / name for name in _shards(index) if (folder / name).is_file()}
    if with_code:
        files |= {p for p in folder.rglob("*") if p.suffix not in _NOT_READ_BY_CODE and not _is_hidden(p, folder)}
    return sorted(p for p in files if p.is_file())


def files_beside(file: Path) -> list[Path]:
    """Return a GGUF file, and the files that transformers may read beside it: tokenizer, chat templates, configs."""
    return [file, *(p for p in files_of(file.parent, with_code=False) if p.suffix != ".safetensors")]


def _shards(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return set()  # transformers refuses such a file when it loads the weights


def first_json_without_object(folder: Path) -> Path | None:
    """Return the first JSON file of a model's folder that does not hold a JSON object; None if each does."""
    for file in sorted(folder.glob("*.json")):
        with suppress(ValueError, RecursionError):  # transformers itself refuses such a file
            if not isinstance(json.loads(file.read_text(encoding="utf-8")), dict):
                return file
    return None


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)


def check_whole(setting: str, path: str, folder: Path, *, with_code: bool) -> None:
    """Raise UserError if a folder holds an adapter besides its model, or lacks code that the model runs.

    Args:
        setting: the setting that names the folder, e.g. `model.path`.
        path: the value of the setting.
        folder: the folder.
        with_code: whether the model's own code runs.

    Raises:
        UserError: the folder also holds an adapter, or the model's own code is in another repository of the hub.
    """
    if (folder / _ADAPTER).exists():
        raise UserError(
            f"{setting} must name a whole model, got {path!r}, which also holds an adapter ({_ADAPTER}): "
            "merge it into the weights first (peft's merge_and_unload), or move it elsewhere"
        )
    for name in ("config.json", "tokenizer_config.json") if with_code else ():
        for reference in _code_elsewhere(folder / name):
            raise UserError(
                f"{setting} must hold the code that model.trust_remote_code=true runs, got {path!r}, whose {name} "
                f"takes it from another repository ({reference}), where it may change: copy it into a local folder"
            )


def _code_elsewhere(config: Path) -> list[str]:
    """Return the references of a config's `auto_map` to other repositories, e.g. `owner/name--modeling.Class`."""
    try:
        mapped = json.loads(config.read_text(encoding="utf-8")).get("auto_map") or {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return []  # transformers refuses invalid JSON when it loads the model
    listed = mapped.values() if isinstance(mapped, dict) else [mapped]
    references = [name for value in listed for name in (value if isinstance(value, list) else [value])]
    return [name for name in references if isinstance(name, str) and "--" in name]

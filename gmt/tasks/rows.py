"""Reads the rows of a dataset: a JSONL, JSON or Parquet file, a folder laid out as on the hub, or the hub itself.

`shipped:NAME` is a file of this package.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.file_digests import hash_of_files
from gmt.machine_faults import machine_faults_first
from gmt.tasks.json_rows import TOO_DEEP, json_rows, json_splits, jsonl_rows, rows_of_split
from gmt.used_files import UsedFiles

SHIPPED = Path(__file__).parent / "shipped"
_SHIPPED_PREFIX = "shipped:"
_FILES = (".jsonl", ".json", ".parquet")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNKNOWN = "unknown"  # the commit, if the cache does not name folders by it


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from.

    Args:
        setting: the user's name for it, e.g. `task.data`.
        path: a .jsonl, .json or .parquet file, `shipped:NAME`, a folder laid out as a dataset of the hub, or a hub id.
        subset: the subset of a dataset that has several (the hub's config name), or null.
        revision: the commit, branch or tag of a hub id; null for local data.
        split: the split, e.g. `train`; ignored for a file, which is read as a whole.

    Raises:
        UserError: a local path does not exist, a file has another suffix, or a hub id has no revision.
    """

    setting: str
    path: str
    subset: str | None
    revision: str | None
    split: str

    def __post_init__(self) -> None:
        settings.text(f"{self.setting}.path", self.path)
        settings.text(f"{self.setting}.split", self.split)
        local_path = self.local()
        if local_path is None:
            if self.revision is None:
                raise UserError(
                    f"{self.setting}.path must be a file or folder of this machine, or a hub id with "
                    f"{self.setting}.revision, got {self.path!r}, which is not on this machine, and no revision"
                )
            settings.text(f"{self.setting}.revision", self.revision)
            return
        if self.revision is not None:
            raise UserError(f"{self.setting}.revision must be null for local data, got {self.revision!r}")
        if not local_path.exists() and local_path.parent == SHIPPED:
            names = [file.name for file in SHIPPED.iterdir()]
            raise UserError(
                f"{self.setting}.path must be shipped:NAME of data in this package, got {self.path!r}; "
                f"{choices(local_path.name, names)}"
            )
        if not local_path.exists():
            raise UserError(f"{self.setting}.path must be a file or folder, got {self.path!r}, which does not exist")
        if local_path.is_file() and local_path.suffix not in _FILES:
            raise UserError(f"{self.setting}.path must be a {', '.join(_FILES)} file, got {self.path!r}")

    def local(self) -> Path | None:
        """Return the path on this machine; None for a hub id."""
        if self.path.startswith(_SHIPPED_PREFIX):
            return SHIPPED / self.path.removeprefix(_SHIPPED_PREFIX)
        path = Path(os.path.expanduser(self.path))
        looks_local = self.path.startswith((".", "/", "~")) or path.suffix in _FILES or path.exists()
        return path if looks_local else None

    def fingerprint(self) -> str:
        """Return a hash of local files, or the id and revision of a hub's dataset."""
        local_path = self.local()
        if local_path is None:
            return f"hub:{self.path}@{self.revision}"
        return hash_of_files(_files(local_path), local_path)

    def used_files(self) -> UsedFiles:
        """Return the files that are read: local ones, or the cached files of a hub's dataset, with its commit.

        Raises:
            UserError, MachineFault: as `rows`.
        """
        local_path = self.local()
        if local_path is not None:
            return UsedFiles(root=local_path if local_path.is_dir() else local_path.parent, files=_files(local_path))
        return self._of_hub()[1]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows, each a mapping with the same columns.

        Raises:
            UserError: a line is malformed or empty, there is no such subset or split, or the hub refuses access.
            MachineFault: the hub can't be reached, or the disk fails.
        """
        local_path = self.local()
        reader = {".jsonl": jsonl_rows, ".json": json_rows}
        rows: Sequence[Mapping[str, Any]]
        if local_path is None:
            rows, _ = self._of_hub()
        elif local_path.is_file() and local_path.suffix in reader:
            rows = reader[local_path.suffix](local_path)
        else:
            rows = self._load(local_path)
        if len(rows) == 0:
            raise UserError(self._no_row())
        return rows

    def _of_hub(self) -> tuple[Sequence[Mapping[str, Any]], UsedFiles]:
        """Return the rows of a hub's dataset, and the files that they are read from.

        These are JSON files of the hub's cache if it holds all of them, else the Arrow files of datasets' cache.
        """
        dataset = self._load(None)
        arrow = cached_of_hub([dataset])
        if (json := _json_of_hub(self.path, self.subset, dataset.info, arrow.commit)) is not None:
            rows = self._load(json.root)
            if len(rows) == len(dataset):
                return rows, json
        return dataset, arrow

    def _no_row(self) -> str:
        return f"{self.setting}.path must hold at least one row, got {self.path!r}, which has none"

    def _check_revision(self, dataset: Any) -> None:
        """Refuse a dataset of another commit than `revision`: without the hub, datasets reads the newest cached one."""
        commit = cached_of_hub([dataset]).commit
        if _COMMIT.fullmatch(str(self.revision)) and commit not in (self.revision, _UNKNOWN):
            raise UserError(
                f"{self.setting}.revision must be a commit that the hub or its cache has, got {self.revision}: "
                f"the hub can't be reached, and the cache has commit {commit} of {self.path!r}"
            )

    def _load(self, local_path: Path | None) -> Any:
        from datasets import load_dataset
        from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

        if local_path is not None and local_path.is_file() and not local_path.stat().st_size:
            raise UserError(self._no_row())
        try:
            with machine_faults_first(f"{self.setting}.path={self.path!r}"):
                if local_path is not None and local_path.is_file():
                    return load_dataset("parquet", data_files=str(local_path), split="train")
                if local_path is not None and (splits := json_splits(local_path, self.subset)) is not None:
                    return rows_of_split(splits, self.split)
                dataset = load_dataset(
                    str(local_path or self.path), self.subset, revision=self.revision, split=self.split
                )
            if local_path is None:
                self._check_revision(dataset)
            return dataset
        except DatasetNotFoundError as error:
            raise UserError(
                f"{self.setting}.path must be a dataset, got {self.path!r}: this machine has no such file or folder, "
                "and the hub has no dataset of that name and revision, or demands an agreement (HF_TOKEN)"
            ) from error
        except (ValueError, DatasetGenerationError, OSError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            if isinstance(error, PermissionError):
                reason += "; it is read through a cache, and HF_HOME must name a writable folder for the cache"
            if reason.endswith("corresponds to no data!"):
                raise UserError(self._no_row()) from error
            raise UserError(f"{self.setting} can't load {self.path!r}: {reason[:300]}") from error
        except RecursionError as error:
            raise UserError(f"{self.setting} can't load {self.path!r}: a row {TOO_DEEP}") from error


def _json_of_hub(name: str, subset: str | None, info: Any, commit: str | None) -> UsedFiles | None:
    """Return the hub's cached JSON files that datasets has read; None if it read others, or the cache lacks some."""
    from huggingface_hub import snapshot_download

    if info.builder_name != "json" or commit == _UNKNOWN:
        return None
    try:
        root = Path(snapshot_download(name, repo_type="dataset", revision=commit, local_files_only=True)).resolve()
        splits = json_splits(root, subset)
    except (FileNotFoundError, ValueError):  # no file in the cache, or no README that names the subset
        return None
    if splits is None or set(splits) != set(info.splits):
        return None
    return UsedFiles(root=root, files=[*splits.files, *root.glob("README.md")], commit=commit)


def _files(local_path: Path) -> list[Path]:
    return [local_path] if local_path.is_file() else sorted(p for p in local_path.rglob("*") if p.is_file())


def cached_of_hub(splits: Iterable[Any]) -> UsedFiles:
    """Return the Arrow files in which datasets caches splits of a hub's dataset; the commit names their folder."""
    files = sorted({Path(file["filename"]) for split in splits for file in getattr(split, "cache_files", ())})
    root = files[0].parent if files else Path()
    return UsedFiles(root=root, files=files, commit=root.name if _COMMIT.fullmatch(root.name) else _UNKNOWN)

"""Reads the weights of a finished run tensor by tensor, with the memory of one tensor for a model of any size."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gmt.errors import UserError
from gmt.masking.bits import weights_sha256


class SavedTensors(Mapping[str, Tensor]):
    """Tensors by name from a folder's safetensors files, which stay open and mapped into memory.

    Args:
        folder: the folder, e.g. weights/ of a run record.
        names: the names of the parameters that the files must hold, tied ones once; other tensors are ignored.

    Raises:
        UserError: a file can't be read, or a parameter is missing.
    """

    def __init__(self, folder: Path, names: Collection[str]):
        self._folder, self._names, self._files = folder, list(names), _files_by_name(folder)
        if missing := [name for name in self._names if name not in self._files]:
            raise UserError(f"{folder} must hold the parameters of the base, and lacks {missing[0]}")

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def check(self, sha256: str) -> None:
        """Raise UserError if any bit differs from the weights that the run ended with; reads all files once.

        Args:
            sha256: `weights_sha256` from the run's result.json.
        """
        if weights_sha256(self) != sha256:
            raise UserError(
                f"{self._folder} must hold the weights that its run ended with, and does not: restore them, or delete "
                f"{self._folder.parent} to run it anew"
            )


def _files_by_name(folder: Path) -> dict[str, Any]:
    """Return the open file of each tensor, by the tensor's name."""
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} can't be read: {error}") from error
        files |= dict.fromkeys(file.keys(), file)  # type: ignore[no-untyped-call]
    return files

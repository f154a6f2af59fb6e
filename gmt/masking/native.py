"""The C of kernels.c, compiled on first use into the user's cache. Without a compiler there is None.

`GMT_NATIVE=0` in the environment turns it off, and Triton too; the torch ops give the same masks. The cache is
`GMT_CACHE`, else `XDG_CACHE_HOME/gmt`, else `~/.cache/gmt`; where it can't be written, each process compiles anew.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = ["-O3", "-shared", "-fPIC"]  # no -march: one cache may serve unlike machines
_LONG, _POINTER, _UINT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32
_SIGNATURES = {
    "count_upper": [_POINTER, _LONG, _POINTER, _POINTER, _POINTER],
    "collect_lower": [_POINTER, _LONG, _POINTER, _POINTER],
    "select_chunks": [_POINTER, _LONG, _POINTER, _POINTER, _POINTER],
    "keep_inside": [_POINTER, _LONG, _LONG, _UINT, _UINT, _POINTER],
    "zero_unkept": [_POINTER, _LONG, _LONG, _POINTER],
    "restore_unkept": [_POINTER, _POINTER, _LONG, _LONG, _POINTER],
    "random_bits": [_POINTER, _LONG, _UINT, _UINT, _UINT],
}
_log = logging.getLogger(__name__)


class Chunk(ctypes.Structure):
    """The `chunk` of kernels.c."""

    _fields_ = (
        ("data", _POINTER),
        ("size", _LONG),
        ("width", _LONG),
        ("group", _LONG),
        ("out", _POINTER),
        ("found", _LONG),
    )


class ChunkSelection(ctypes.Structure):
    """The `selection` of kernels.c."""

    _fields_ = (
        ("data", Chunk),
        ("masked", _LONG),
        ("smallest", _LONG),
        ("rank_zeros", _LONG),
        ("threshold", _LONG),
        ("below", _LONG),
        ("ties", _LONG),
        ("zeros", _LONG),
        ("nonfinite", _LONG),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library, or None if it is turned off, no compiler is at hand, or compiling fails."""
    if os.environ.get("GMT_NATIVE", "1") == "0":
        return None
    try:
        compiled = _loaded()
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        _log.info("masks are made with torch ops, several times slower than by the C of kernels.c: %s", detail)
        return None
    for name, arguments in _SIGNATURES.items():
        function = getattr(compiled, name)
        function.argtypes, function.restype = arguments, None
    return compiled


def has_triton(device: torch.device) -> bool:
    """Whether the kernels of triton_kernels.py count and mask on a device: on CUDA, where Triton is installed."""
    return device.type == "cuda" and _is_triton_wanted()


@functools.cache
def _is_triton_wanted() -> bool:
    return os.environ.get("GMT_NATIVE", "1") != "0" and find_spec("triton") is not None


def _loaded() -> ctypes.CDLL:
    try:
        path = _compiled(_cache())
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        with tempfile.TemporaryDirectory(prefix="gmt-kernels-") as folder:
            return ctypes.CDLL(str(_compiled(Path(folder))))  # once loaded, it needs no file
    return ctypes.CDLL(str(path))


def _compiled(cache: Path) -> Path:
    key = hashlib.sha256(_SOURCE.read_bytes() + repr((_FLAGS, platform.machine(), platform.system())).encode())
    path = cache / f"kernels-{key.hexdigest()[:16]}.so"
    if path.exists():
        return path
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("there is no C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # beside it: the last move must be atomic
        fresh = Path(folder) / path.name
        command = [compiler, *_FLAGS, "-o", str(fresh), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8", timeout=60)
        fresh.replace(path)
    return path


def _cache() -> Path:
    if chosen := os.environ.get("GMT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gmt"

"""Compiles the C code of kernels.c and select.c on first use, and loads it.

The environment variable `GMT_NATIVE=0` turns off the C code and Triton; torch ops then compute the same masks, as they
do without a compiler. The library is cached in a folder for each user below `GMT_CACHE`, else `XDG_CACHE_HOME/gmt`,
else `~/.cache/gmt`. If that folder can't be written, or if other users could write there, each process compiles anew.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

WIDTHS = (2, 4)  # sizes in bytes of the entries that the C code can mask and restore
_FOLDER = Path(__file__).parent
_SOURCES = [_FOLDER / "kernels.c", _FOLDER / "select.c"]
_FLAGS = ["-O3", "-shared", "-fPIC"]  # no -march, since machines of different types may share a cache
_LONG, _POINTER, _UINT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_uint32
_SIGNATURES = {
    "count_upper": [_POINTER, _LONG, _POINTER, _POINTER, _POINTER],
    "collect_lower": [_POINTER, _LONG, _POINTER, _POINTER],
    "sample_chunks": [_POINTER, _LONG, _POINTER],
    "split_chunks": [_POINTER, _LONG, _POINTER],
    "select_chunks": [_POINTER, _LONG, _POINTER, _POINTER],
    "find_rank": [_POINTER, _LONG, _LONG, _LONG, _LONG, _POINTER],
    "mask_chunks": [_POINTER, _LONG, _POINTER],
    "restore_chunks": [_POINTER, _LONG, _POINTER],
    "gather_set": [_POINTER, _LONG, _LONG, _POINTER, _POINTER],
    "scatter_set": [_POINTER, _LONG, _LONG, _POINTER, _POINTER],
    "random_bits": [_POINTER, _LONG, _UINT, _UINT, _UINT],
}
_log = logging.getLogger(__name__)


class Chunk(ctypes.Structure):
    """The `chunk` of kernels.h."""

    _fields_ = (
        ("data", _POINTER),
        ("size", _LONG),
        ("width", _LONG),
        ("group", _LONG),
        ("out", _POINTER),
        ("found", _LONG),
        ("start", _LONG),
        ("key1", _LONG),
        ("key2", _LONG),
    )


class Bracket(ctypes.Structure):
    """The `bracket` of select.c."""

    _fields_ = (
        ("data", Chunk),
        ("low", _LONG),
        ("high", _LONG),
        ("below", _LONG),
        ("zeros", _LONG),
        ("count_zeros", _LONG),
        ("nonfinite", _LONG),
    )


class ChunkSelection(ctypes.Structure):
    """The `selection` of select.c."""

    _fields_ = (
        ("between", Bracket),
        ("masked", _LONG),
        ("smallest", _LONG),
        ("rank_zeros", _LONG),
        ("samples", _LONG),
        ("margin", _LONG),
        ("threshold", _LONG),
        ("below", _LONG),
        ("ties", _LONG),
    )


class Bounded(ctypes.Structure):
    """The `bounded` of kernels.c."""

    _fields_ = (
        ("scores", Chunk),
        ("lowest", _LONG),
        ("highest", _LONG),
        ("entries", _POINTER),
        ("width", _LONG),
        ("copy", _POINTER),
        ("num_alike", _LONG),
    )


class Unkept(ctypes.Structure):
    """The `unkept` of kernels.c."""

    _fields_ = (
        ("now", _POINTER),
        ("before", _POINTER),
        ("keep", _POINTER),
        ("size", _LONG),
        ("width", _LONG),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library; None if it is turned off, there is no compiler, or compiling fails."""
    if os.environ.get("GMT_NATIVE", "1") == "0":
        return None
    try:
        compiled = _loaded()
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        _log.info("masks are computed by torch ops, several times slower than by the C code of kernels.c: %s", detail)
        return None
    return compiled


def has_triton(device: torch.device) -> bool:
    """Return whether Triton kernels count and mask on a device: on CUDA, if Triton is installed and not turned off."""
    return device.type == "cuda" and _is_triton_wanted()


@functools.cache
def _is_triton_wanted() -> bool:
    return os.environ.get("GMT_NATIVE", "1") != "0" and find_spec("triton") is not None


def _loaded() -> ctypes.CDLL:
    try:
        return _from_cache(_cache() / f"kernels-of-{os.geteuid()}")
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        _log.info("kernels.c is compiled for this process only, since the cache can't be used: %s", error)
        with tempfile.TemporaryDirectory(prefix="gmt-kernels-") as folder:
            return _opened(_compiled(Path(folder)))  # a loaded library does not need its file


def _from_cache(folder: Path) -> ctypes.CDLL:
    """Load the library from a folder that only this user can write; compile it there first if it is missing.

    Raises:
        OSError: the library can't be loaded, or other users could have written it.
    """
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    _check_ownership(folder, folder.lstat())
    path = folder / f"kernels-{_key()}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # on the same file system, so that replace is atomic
            _compiled(Path(scratch)).replace(path)
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _check_ownership(path, os.fstat(file))
        opened = Path(f"/proc/self/fd/{file}")  # the checked file, even if the path now names another
        return _opened(opened if opened.exists() else path)
    finally:
        os.close(file)


def _check_ownership(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or stat.S_ISLNK(status.st_mode):
        raise PermissionError(
            f"{path} must belong to uid {os.geteuid()} and be writable by nobody else, got uid {status.st_uid} and "
            f"mode {stat.S_IMODE(status.st_mode):o}; delete it, or set GMT_CACHE to a folder of your own"
        )


def _opened(path: Path) -> ctypes.CDLL:
    compiled = ctypes.CDLL(str(path))
    for name, arguments in _SIGNATURES.items():
        if not hasattr(compiled, name):
            raise OSError(f"the library {path} lacks {name}")
        function = getattr(compiled, name)
        function.argtypes, function.restype = arguments, None
    return compiled


def _key() -> str:
    """Return a hash of the sources, the compiler's flags and the platform."""
    sources = b"".join(file.read_bytes() for file in sorted(_FOLDER.glob("*.[ch]")))
    build = repr((_FLAGS, platform.machine(), platform.system())).encode()
    return hashlib.sha256(sources + build).hexdigest()[:16]


def _compiled(folder: Path) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OSError("there is no C compiler")
    compiled = folder / "kernels.so"
    command = [compiler, *_FLAGS, "-o", str(compiled), *map(str, _SOURCES)]
    subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8", timeout=60)
    compiled.chmod(0o700)  # the umask may let a group write
    return compiled


def _cache() -> Path:
    if folder := os.environ.get("GMT_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gmt"

"""Hashes of files. The digest of a large file is cached for all processes of a user until the file changes.

The cache is a folder that only this user can write. Its key is the file's path, device, inode, size, and times of
modification and of change; only the kernel sets the last one, so every write to the file changes the key.
"""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from gmt import ownership
from gmt.removal import remove

_LARGE_BYTES = 64 * 2**20  # hashing a smaller file is faster than looking its digest up on a network
_SETTLED_S = 2.0  # a file changed more recently may change again within the same tick of the file system's clock
_DIGEST = re.compile(r"[0-9a-f]{64}")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex."""
    before = path.stat()
    if before.st_size < _LARGE_BYTES:
        return _hashed(path)
    entry = _entry(path, before)
    if (known := _known(entry)) is not None:
        return known
    digest = _hashed(path)
    if _state(path.stat()) == _state(before) and time.time() - before.st_ctime > _SETTLED_S:
        _remember(entry, digest)
    return digest


def git_sha1_of(path: Path) -> str:
    """Return the SHA-1 by which git identifies a file's content; the hub uses it for small files."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def hash_of_digests(digests: Iterable[tuple[str, str]]) -> str:
    """Return a short hash over pairs of a file's name and digest."""
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(digests))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def hash_of_files(files: Iterable[Path], root: Path) -> str:
    """Return a hash of the contents of files and of their paths relative to `root`, in the given order."""
    return _hash_of_files(tuple((path, path.stat().st_ctime_ns, path.stat().st_size) for path in files), root)


@lru_cache(maxsize=128)
def _hash_of_files(files: tuple[tuple[Path, int, int], ...], root: Path) -> str:
    """Return `hash_of_files`, cached by change times and sizes, since a plan needs it once for each run."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(bytes.fromhex(sha256_of(path)))
    return f"sha256:{digest.hexdigest()[:32]}"


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _entry(path: Path, status: os.stat_result) -> Path:
    key = hashlib.sha256(repr((str(path.resolve()), *_state(status))).encode()).hexdigest()[:32]
    cache = os.environ.get("GMT_CACHE")
    folder = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gmt"
    return folder / "digests" / key


def _known(entry: Path) -> str | None:
    try:
        if any(ownership.fault_of(status) for status in (entry.parent.lstat(), entry.lstat())):
            return None
        text = entry.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if _DIGEST.fullmatch(text) else None


def _remember(entry: Path, digest: str) -> None:
    temporary = entry.with_name(f".{uuid.uuid4().hex}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.write_text(digest, encoding="ascii")
        temporary.chmod(0o600)
        temporary.replace(entry)
    except OSError:  # a full disk or a folder without write permission: the file is hashed again next time
        with suppress(OSError):
            remove(temporary, entry.parent)

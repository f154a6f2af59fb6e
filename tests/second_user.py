"""Acts as a second user of the machine; only root can. Its files may lie where Python's own can't be read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as a second user")


@contextmanager
def second_user() -> Iterator[None]:
    """Have the rights of NOBODY until the block ends."""
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def open_to_all(folder: Path) -> None:
    """Let everybody enter a folder of pytest's, which only its owner can."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid != os.geteuid() or each == Path("/"):
            return
        each.chmod(each.stat().st_mode | 0o011)

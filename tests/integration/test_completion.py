"""Completion in real shells: a person types the beginning of a word and the tab key."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# What is typed, and what stands in the line after the tab key.
LINES = {
    "gmt pla": "gmt plan ",
    "gmt plan study=smol": "gmt plan study=smollm2_sums ",
    "gmt run method=lora method.ran": "gmt run method=lora method.rank=",
    "gmt plan study=quickstart --runs train.pac": "gmt plan study=quickstart --runs train.packing=",
    "gmt show 0123": "gmt show 0123456789abcdef ",
    "gmt help resources.stall": "gmt help resources.stall_limit_s ",
}
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1='ready> '; bind 'set bell-style none'; set +o history"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "PS1='ready> '; unsetopt beep promptsp; bindkey -e; autoload -U compinit; compinit -u -D",
    ),
}

INSTALLED = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed here"))
    for name in SHELLS
]


@contextmanager
def terminal(shell: str, folder: Path) -> Iterator[int]:
    """A shell on a terminal of its own, with the completion of gmt."""
    command, begin = SHELLS[shell]
    ours, theirs = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "dumb", "HOME": str(folder), "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            os.write(ours, f'{begin}; eval "$(gmt completion {shell})"; echo "be""gun"\n'.encode())
            seen_until(ours, "begun\r\n")
            yield ours
        finally:
            process.kill()
            os.close(ours)


def seen_until(terminal: int, end: str) -> str:
    """What appears on a terminal, until some text does."""
    text = ""
    latest = time.monotonic() + 60
    while end not in text:
        assert select.select([terminal], [], [], max(latest - time.monotonic(), 0))[0], text
        text += os.read(terminal, 4096).decode(errors="replace")
    return text


@pytest.mark.parametrize("shell", INSTALLED)
def test_the_tab_key_completes(shell: str, tmp_path: Path) -> None:
    (tmp_path / "gmt-results" / "runs" / "0123456789abcdef").mkdir(parents=True)
    with terminal(shell, tmp_path) as line:
        for typed, completed in LINES.items():
            # END' at the end of the line, and echo ' at its beginning: what stands in the line is printed.
            os.write(line, f"{typed}\tEND'\x01echo '\n".encode())
            assert f"\r\n{completed}END\r\n" in seen_until(line, "END\r\n"), typed

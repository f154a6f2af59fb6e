"""Finds the answer in a text by a user's regular expression, within a time.

`re` tries every way to split a text into repetitions: `(\\w+\\s?)+$` takes seconds for a few dozen letters, and many
times as long for a few letters more, while no other thread of the process runs. So searches run in a process of their
own: a pattern's looks don't tell how long it takes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from gmt.errors import MachineFault
from gmt.tasks import answer_search

LIMIT_S = 5.0  # on a core: a busy machine makes no pattern too slow
_SHOWN = 60


class TooSlow(Exception):
    """A pattern takes too long in a text; `sentence` is the user's."""

    def __init__(self, pattern: str, text: str):
        super().__init__(pattern)
        self.sentence = (
            f"answer_pattern must find an answer within {LIMIT_S:g} s, and {pattern!r} takes longer in a text of "
            f"{len(text)} letters that begins {text[:_SHOWN]!r}: let no repetition stand within another"
        )


def find_answer(pattern: str, text: str) -> str | None:
    """Return what a pattern's last match in a text says: the first of its groups that takes part, or all of it.

    Raises:
        TooSlow: the search takes longer than LIMIT_S.
        MachineFault: the process that searches was ended by another.
    """
    return _search(os.getpid()).find(pattern, text)


class _Search:
    """The process that searches; begun when it is needed, and again after it was ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def find(self, pattern: str, text: str) -> str | None:
        with self._lock:
            process = self._process = self._process or _begin()
            assert process.stdin is not None
            assert process.stdout is not None
            answer = ""
            try:
                process.stdin.write(json.dumps([pattern, text, LIMIT_S]) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                pass
            finally:
                if not answer:  # it was ended, or we were interrupted: its answer must not be taken for the next one's
                    self._end(process)
        if answer:
            found: str | None = json.loads(answer)
            return found
        if process.returncode == -signal.SIGPROF:
            raise TooSlow(pattern, text)
        raise MachineFault(f"the process that searches for answers was ended (exit code {process.returncode})")

    def _end(self, process: subprocess.Popen[str]) -> None:
        self._process = None
        process.kill()  # does nothing to one that has ended
        process.communicate()


@lru_cache(maxsize=1)
def _search(of_process: int) -> _Search:
    """Return this process's own: of two that wrote to one pipe, each could read the other's answer."""
    return _Search()


def _begin() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(Path(answer_search.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C is for the caller
    )

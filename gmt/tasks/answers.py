"""Finds the answer in a text by a user's regular expression, within a time limit.

`re` tries every way to split a text into repetitions: `(\\w+\\s?)+$` takes seconds for a few dozen letters, and many
times as long for a few letters more, while no other thread of the process runs. A pattern's text does not tell how long
it takes, so searches run in a separate process that can be ended.
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

LIMIT_S = 5.0  # CPU seconds, so that a busy machine makes no pattern too slow
_SHOWN = 60


class TooSlow(Exception):
    """A pattern takes too long in a text; `sentence` says so for the user."""

    def __init__(self, pattern: str, text: str):
        super().__init__(pattern)
        self.sentence = (
            f"answer_pattern must find an answer within {LIMIT_S:g} s, and {pattern!r} takes longer in a text of "
            f"{len(text)} letters that begins {text[:_SHOWN]!r}: put no repetition inside another"
        )


def find_answer(pattern: str, text: str) -> str | None:
    """Return the first group that took part in a pattern's last match in a text, or the whole match without one.

    Raises:
        TooSlow: the search takes longer than LIMIT_S.
        MachineFault: another process ended the process that searches.
    """
    return _search(os.getpid()).find(pattern, text)


class _Search:
    """The process that searches; it is started when needed, and again after it was ended."""

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
                if not answer:  # it ended, or we were interrupted: a late answer must not be taken for the next one
                    self._end(process)
        if answer:
            text_found: str | None = json.loads(answer)
            return text_found
        if process.returncode == -signal.SIGPROF:
            raise TooSlow(pattern, text)
        raise MachineFault(f"the process that searches for answers was ended (exit code {process.returncode})")

    def _end(self, process: subprocess.Popen[str]) -> None:
        self._process = None
        process.kill()  # does nothing to a process that has ended
        process.communicate()


@lru_cache(maxsize=1)
def _search(pid: int) -> _Search:
    """Return the search of the process `pid`; two processes that share a pipe could read each other's answers."""
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

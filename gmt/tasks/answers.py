"""Finds the answer in a text by a user's regular expression, within a time limit.

`re` tries every way to split a text into repetitions: `(\\w+\\s?)+$` takes seconds for a few dozen letters, and many
times as long for a few letters more, while no other thread of the process runs. The time can't be predicted from the
pattern, so searches run in a separate process that can be ended.
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
    """A pattern takes too long in a text; `sentence` is the message for the user."""

    def __init__(self, pattern: str, text: str):
        super().__init__(pattern)
        self.sentence = (
            f"answer_pattern must find an answer within {LIMIT_S:g} s, but {pattern!r} takes longer in a text of "
            f"{len(text)} characters that begins with {text[:_SHOWN]!r}: put no repetition inside another"
        )


def find_answer(pattern: str, text: str) -> str | None:
    """Return the first group that took part in a pattern's last match in a text; the whole match if no group did.

    Raises:
        TooSlow: the search takes longer than LIMIT_S.
        MachineFault: the process that searches was ended from outside.
    """
    return _search(os.getpid()).find(pattern, text)


class _Search:
    """The process that searches; started at the first search, and again at the first one after it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def find(self, pattern: str, text: str) -> str | None:
        with self._lock:
            process = self._process = self._process or _start_process()
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
                if not answer:  # it ended, or we were interrupted: a later search must not read this search's answer
                    self._end(process)
        if answer:
            match: str | None = json.loads(answer)
            return match
        if process.returncode == -signal.SIGPROF:
            raise TooSlow(pattern, text)
        raise MachineFault(f"the process that searches for answers was ended (exit code {process.returncode})")

    def _end(self, process: subprocess.Popen[str]) -> None:
        self._process = None
        process.kill()  # does nothing to a process that has ended
        process.communicate()


@lru_cache(maxsize=1)
def _search(pid: int) -> _Search:
    """Return the search of the process `pid`; a forked process has its own, and does not read its parent's pipe."""
    return _Search()


def _start_process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", str(Path(answer_search.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,  # so that Ctrl-C reaches only the caller
    )

"""Searches texts for answers; gmt.tasks.answers runs this file in a process of its own, which imports nothing of ours.

Each line of its stdin is a JSON list of a pattern, a text and CPU seconds; it answers with a line of JSON. A search
that takes longer ends the process: the kernel does that by SIGPROF, which nothing here catches.
"""

import json
import re
import signal
import sys
from collections import deque


def answer_in(pattern: str, text: str) -> str | None:
    """Return what a pattern's last match in a text says: the first of its groups that takes part, or all of it."""
    found = deque(re.finditer(pattern, text), maxlen=1)
    if not found:
        return None
    return next((group for group in found[0].groups() if group is not None), found[0].group()).strip()


def main() -> None:
    """Answer line by line, until there is none."""
    for line in sys.stdin:
        pattern, text, limit_s = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        answer = answer_in(pattern, text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

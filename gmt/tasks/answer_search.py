"""Searches texts for answers. gmt.tasks.answers runs this file in a separate process, without the rest of the package.

Each line of stdin is a JSON list of a pattern, a text and a limit in CPU seconds; the answer is printed as a line of
JSON. If a search takes longer than the limit, the kernel ends the process by SIGPROF, which nothing here catches.
"""

import json
import re
import signal
import sys
from collections import deque


def answer_in(pattern: str, text: str) -> str | None:
    """Return the first group that took part in a pattern's last match in a text; the whole match if no group did."""
    last_match = deque(re.finditer(pattern, text), maxlen=1)
    if not last_match:
        return None
    return next((group for group in last_match[0].groups() if group is not None), last_match[0].group()).strip()


def main() -> None:
    """Print the answer to each line of stdin."""
    for line in sys.stdin:
        pattern, text, limit_s = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        answer = answer_in(pattern, text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

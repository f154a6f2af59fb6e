"""What several attacks are made of."""

from dataclasses import replace

from gmt.evaluation.sandboxing.sandbox import run_python
from tests.sandboxing import LIMITS

LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

FORK_BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""

DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.closerange(0, 64)
        time.sleep(10**6)
    os._exit(0)
os.wait()
"""


def works_without_walls(program: str) -> bool:
    """Whether an attack does what it says where nothing stops it."""
    limits = replace(LIMITS, processes=100_000)
    return run_python(program, limits, run_untrusted_code_without_sandbox=True).status == "passed"

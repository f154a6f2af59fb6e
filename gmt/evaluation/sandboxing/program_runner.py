"""Runs a model-written program in this process: sets the limits, executes the program, and reports its end.

The text of this file is given to an interpreter that can't import this project. Its stdin is a socket, which delivers
eight bytes with the program's length, the program, and a token. The runner sends back STARTED and executes the program;
only then does it read the token and send it back.
"""

import os
import resource
import sys
import types

STARTED = b"+"
OUT_OF_MEMORY = b"out of memory"
TOKEN_BYTES = 32
NOBODY = 65534  # the uid inside the sandbox
MODULE = "answer"
_FILES_OF_BUBBLEWRAP = 2**16  # bubblewrap leaves some descriptors open, all below this number
_OPEN_FILES = 64  # each pipe and socket holds memory of the kernel


def main() -> None:
    """Run the program; sys.argv holds its uid and its limits: memory bytes, CPU seconds, processes, bytes of a file."""
    uid, memory, cpu_s, processes, file_size = (int(x) for x in sys.argv[1:])
    del sys.argv[1:]
    os.closerange(3, _FILES_OF_BUBBLEWRAP)
    channel = os.dup(0)
    with open("/dev/null", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    if os.getpid() == 1:
        stand_by()
        processes += os.getuid() == uid  # the namespace's first process counts too, unless it is root's
    become(uid)
    limit(memory, cpu_s, processes, file_size)
    program = read(channel, int.from_bytes(read(channel, 8), "big")).decode(errors="surrogatepass")
    os.write(channel, STARTED)
    pid = os.getpid()
    try:
        run(program)
    except MemoryError:
        os.write(channel, OUT_OF_MEMORY)
        os._exit(1)
    if os.getpid() == pid:  # a child of the program may reach the last line too
        os.write(channel, read(channel, TOKEN_BYTES))
    os._exit(0)  # without waiting for threads and exit handlers, since the program has passed


def become(uid: int) -> None:
    """Take another uid for good; root of a user namespace keeps no privileges."""
    if os.getuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def stand_by() -> None:
    """Continue in a child process, and end with its exit code; this is the namespace's first process.

    When the first process ends, the kernel ends all others. Children of bubblewrap itself would be left to the
    machine's init, which in many containers reaps none. This process keeps its uid, since a process that changes it is
    no longer ended when bubblewrap is killed.
    """
    child = os.fork()
    while child:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def limit(memory: int, cpu_s: int, processes: int, file_size: int) -> None:
    """Set the limits of this process and its children; lower limits of the machine stay."""
    for name, soft, hard in (
        (resource.RLIMIT_CORE, 1, 1),  # not 0: with 1 the kernel starts no core dump handler either, see fs/coredump.c
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),  # SIGXCPU at the limit, SIGKILL a second later
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_NPROC, processes, processes),
        (resource.RLIMIT_FSIZE, file_size, file_size),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
    ):
        _, highest = resource.getrlimit(name)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(name, (soft, hard))


def read(channel: int, size: int) -> bytes:
    """Return exactly `size` bytes from the channel."""
    data = b""
    while len(data) < size:
        chunk = os.read(channel, size - len(data))
        if not chunk:
            sys.exit("the channel was closed before the program arrived")
        data += chunk
    return data


def run(program: str) -> None:
    """Execute the program in a new module, which dataclasses and pickle look up by its name."""
    module = sys.modules[MODULE] = types.ModuleType(MODULE)
    exec(compile(program, f"<{MODULE}>", "exec"), module.__dict__)


if __name__ == "__main__":
    main()

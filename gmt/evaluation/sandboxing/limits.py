"""The limits of a model-written program."""

from dataclasses import dataclass

from gmt.settings import integer, number

_SMALLEST_MEMORY_BYTES = 2**26  # an interpreter alone takes 20 to 30 MB of addresses
_PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one program together with its child processes, unless said otherwise.

    Args:
        wall_time_s: seconds from the program's first line on, without the time in which it waits for a core or a disk.
        cpu_time_s: whole seconds of CPU time for each of its processes.
        memory_bytes: address space of each of its processes, and resident memory of all of them together.
        processes: processes and threads at one time, the program itself included. Without a sandbox, all processes of
            its user count, and root has no limit. In a sandbox on a kernel before 5.14, all processes of its user count
            too, unless root starts the sandbox.
        output_bytes: bytes written to stdout and stderr together.
        scratch_bytes: bytes in its folder; without a sandbox, bytes in each file.

    Raises:
        UserError: a value is out of its range.
    """

    wall_time_s: float
    cpu_time_s: int
    memory_bytes: int
    processes: int
    output_bytes: int
    scratch_bytes: int

    def __post_init__(self) -> None:
        number("limits.wall_time_s", self.wall_time_s, "must be above 0", low=0, open_low=True)
        integer("limits.cpu_time_s", self.cpu_time_s, low=1)
        integer("limits.memory_bytes", self.memory_bytes, low=_SMALLEST_MEMORY_BYTES)
        integer("limits.processes", self.processes, low=1)
        integer("limits.output_bytes", self.output_bytes, low=0)
        integer("limits.scratch_bytes", self.scratch_bytes, low=_PAGE_BYTES)

"""What a model-written program may use."""

from dataclasses import dataclass

from gmt.settings import integer, number

_SMALLEST_MEMORY_BYTES = 2**26  # an interpreter alone takes 20 to 30 MB of addresses
_PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use; with all that it starts, unless said otherwise.

    Args:
        wall_time_s: from its first line on, without the time in which it waits for a core or a disk.
        cpu_time_s: whole seconds, of each of its processes.
        memory_bytes: addresses of each of its processes, and resident memory of all of them together.
        processes: at one time, itself and threads among them; without a sandbox counted over all that its user runs,
            and not for root. So it is by kernels before 5.14 for a user who is not root.
        output_bytes: on stdout and stderr together.
        scratch_bytes: in its folder; without a sandbox in each file.

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

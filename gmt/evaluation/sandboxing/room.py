"""Computes how many programs may run at a time, from the cores and the memory that this process may use."""

from gmt.usable import free_bytes, usable_cores


def num_at_once(cpus: int, program_bytes: int) -> int:
    """Return how many programs may run at a time: at least one, at most one for each of the run's cores.

    Args:
        cpus: the run's cores.
        program_bytes: the memory that a program may take.
    """
    return max(1, min(cpus, usable_cores(), free_bytes() // program_bytes))

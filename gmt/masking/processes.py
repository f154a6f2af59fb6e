"""The number of processes that train together, from torch.distributed; a process outside of a group trains alone."""

from torch import distributed


def in_group() -> bool:
    """Return whether this process is a member of a group."""
    return distributed.is_available() and distributed.is_initialized()


def num_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if in_group() else 1

"""The processes of one training, as torch.distributed knows them; a process outside of any group is the only one."""

from torch import distributed


def in_group() -> bool:
    """Return whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized()


def num_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if in_group() else 1

"""The workers of one training, the processes of torch.distributed; a process outside of a group is the only worker."""

from typing import TypeVar

from torch import distributed

from gmt.masking.processes import in_group, num_processes

T = TypeVar("T")


def num_workers() -> int:
    """Return how many workers train together."""
    return num_processes()


def index() -> int:
    """Return this worker's number, from 0; worker 0 evaluates and writes the run record."""
    return distributed.get_rank() if in_group() else 0


def broadcast(value: T) -> T:
    """Return the first worker's value on every worker; each must call this. The value is pickled."""
    if num_workers() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_gather(value: T) -> list[T]:
    """Return the values of all workers, by the worker's number; each must call this. The values are pickled."""
    if num_workers() == 1:
        return [value]
    values = [value] * num_workers()
    distributed.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every worker has called this."""
    all_gather(None)

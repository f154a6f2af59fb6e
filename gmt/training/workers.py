"""The workers of one training, as torch.distributed knows them; a process outside of any group is the only one."""

from typing import TypeVar

from torch import distributed

from gmt.masking.processes import in_group, num_processes

T = TypeVar("T")


def num_workers() -> int:
    """How many processes train together."""
    return num_processes()


def index() -> int:
    """Which of them this one is, from 0; the first evaluates and writes the record."""
    return distributed.get_rank() if in_group() else 0


def agreed(value: T) -> T:
    """What the first worker passes; each must call it. Plain values only, since they are pickled."""
    if num_workers() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """What every worker passes, by index; each must call it."""
    if num_workers() == 1:
        return [value]
    values = [value] * num_workers()
    distributed.all_gather_object(values, value)
    return values


def meet() -> None:
    """Waits until every worker is here."""
    gathered(None)

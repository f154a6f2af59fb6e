"""Finds faults in a merge's settings without reading its parents. Imports no torch."""

import re
from collections.abc import Iterator, Sequence

from gmt.errors import UserError
from gmt.merges.protocol import Merge, learns

_RUN_ID = re.compile(r"[0-9a-f]{16}")


def run_ids(value: object) -> Sequence[str]:
    """Return the run ids in the setting `parents`.

    Raises:
        UserError: the value is not a list of distinct run ids.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"parents must be null or a list of run ids, got {value!r}")
    for id_ in value:
        if not isinstance(id_, str) or not _RUN_ID.fullmatch(id_):
            raise UserError(
                f"parents must hold run ids, each of 16 hexadecimal digits (0-9, a-f), got {id_!r}; `gmt plan` lists "
                "the ids, and an id without a letter must be quoted twice, as in parents=['\"ID\"']"
            )
    if duplicate := next((id_ for id_ in value if value.count(id_) > 1), None):
        raise UserError(f"parents must name each run once, got {duplicate} twice")
    return tuple(value)


def faults_of_merge(merge: Merge | None, parents: Sequence[str], *, paradigm: str, is_searched: bool) -> Iterator[str]:
    """Yield a sentence for each fault of a merge and its parents, or of parents without a merge.

    Args:
        merge: the run's merge; None if it has none.
        parents: the run ids that the config names.
        paradigm: train.paradigm.
        is_searched: whether the study has `search`.
    """
    if merge is None:
        if parents:
            yield f"parents must be null without a merge, got {', '.join(parents)}"
        return
    (least, most), number = merge.num_parents, max(len(parents), 1)
    if number < least:
        yield (
            f"merge={merge.name} needs at least {least} parents, got {number}: name them by parents=[RUN,RUN], or in a "
            "study by the arm's from and over"
        )
    if most is not None and number > most:
        yield f"merge={merge.name} takes at most {most} parent{'s' if most > 1 else ''}, got {number}"
    if learns(merge) and paradigm != "sft":
        yield (
            f"train.paradigm must be sft for merge={merge.name}, which learns from examples with one completion each, "
            f"got {paradigm}"
        )
    if is_searched:
        yield f"merge={merge.name} can't go with search, which stops trainings early, and a merge does not train"

"""Several examples in a row, for less padding."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from trl.data_utils import pack_dataset


def packed(examples: Sequence[Mapping[str, Any]], max_length: int) -> list[dict[str, Any]]:
    """Puts examples together by TRL's best fit, which cuts none that is not longer than a row.

    Args:
        examples: with input_ids and labels, none longer than a row.
        max_length: tokens of a row.

    Returns:
        Rows with input_ids and labels, and seq_lengths, the lengths of the examples in a row.
    """
    rows: list[dict[str, Any]] = pack_dataset(Dataset.from_list(list(examples)), max_length, "bfd").to_list()
    return rows

"""Several examples in a row, for less padding."""

from datasets import Dataset
from trl.data_utils import pack_dataset


def packed(examples: Dataset, max_length: int) -> Dataset:
    """Puts examples together by TRL's best fit, which cuts none that is not longer than a row.

    Args:
        examples: with input_ids and labels, none longer than a row.
        max_length: tokens of a row.

    Returns:
        Rows with input_ids and labels, and seq_lengths, the lengths of the examples in a row.
    """
    return pack_dataset(examples, max_length, "bfd")

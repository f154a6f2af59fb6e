"""Packs several examples into a row, for less padding."""

from datasets import Dataset
from trl.data_utils import pack_dataset


def packed(examples: Dataset, max_length: int) -> Dataset:
    """Return rows of examples, packed by TRL's best-fit algorithm, which splits no example that fits into a row.

    Args:
        examples: examples with input_ids and labels, none longer than a row.
        max_length: the number of tokens of a row.

    Returns:
        Rows with input_ids, labels, and seq_lengths, the lengths of the examples in the row.
    """
    return pack_dataset(examples, max_length, "bfd")

"""Ages of kept entries that have joined at different steps: a byte for each entry that names its cohort.

A cohort is all entries of a parameter with the same age, so that a refresh adds one. The state of a parameter holds
`age` of each cohort and `cohort` of each entry, or neither where all entries have the parameter's number of steps.

Shape suffixes: K kept entries of a parameter; C cohorts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NARROW = ((1 << 8, torch.uint8), (1 << 15, torch.int16))  # how many cohorts fit, and into what


def ages(state: dict[str, Any]) -> Tensor | None:
    """Return the number of steps that each kept entry has taken, int32 of shape [K]; None: the parameter's number."""
    if "age" not in state:
        return None
    age_K: Tensor = state["age"].index_select(0, state["cohort"].int())
    return age_K


def set_ages(state: dict[str, Any], age_K: Tensor) -> None:
    """Hold the ages of kept entries in a parameter's state.

    Args:
        state: of the parameter; changed in place.
        age_K: int32 of shape [K].
    """
    state["age"], cohort_K = torch.unique(age_K, return_inverse=True)
    num_cohorts = len(state["age"])
    state["cohort"] = cohort_K.to(next((dtype for most, dtype in _NARROW if num_cohorts <= most), torch.int32))


def forget_ages(state: dict[str, Any]) -> None:
    """Let all kept entries have the parameter's number of steps again."""
    for key in ("age", "cohort"):
        state.pop(key, None)

"""Stores the ages of kept entries, their numbers of steps, if entries have joined a support at different steps.

A cohort is the set of a parameter's kept entries with the same age, so each refresh adds a cohort. A parameter's state
holds the `age` of each cohort, and the `cohort` of each entry, usually as one byte. It holds neither if every entry's
age is the parameter's number of steps.

Shape suffixes: K kept entries of a parameter; C cohorts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_NARROW = ((1 << 8, torch.uint8), (1 << 15, torch.int16))  # the most cohorts for each narrow dtype


def ages(state: dict[str, Any]) -> Tensor | None:
    """Return the age of each kept entry, int32 of shape [K]; None if all have the parameter's number of steps."""
    if "age" not in state:
        return None
    age_K: Tensor = state["age"].index_select(0, state["cohort"].int())
    return age_K


def set_ages(state: dict[str, Any], age_K: Tensor) -> None:
    """Store the ages of kept entries in a parameter's state.

    Args:
        state: the parameter's state; changed in place.
        age_K: the ages, int32 of shape [K].
    """
    state["age"], cohort_K = torch.unique(age_K, return_inverse=True)
    num_cohorts = len(state["age"])
    state["cohort"] = cohort_K.to(next((dtype for most, dtype in _NARROW if num_cohorts <= most), torch.int32))


def forget_ages(state: dict[str, Any]) -> None:
    """Remove the ages from a parameter's state, so that every entry's age is the parameter's number of steps."""
    for key in ("age", "cohort"):
        state.pop(key, None)

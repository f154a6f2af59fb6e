"""Computes how many entries of each tensor are kept under scope=entropy (GEM, Kang et al., arXiv 2508.16191).

A tensor's number of kept entries is proportional to its weight: the Euclidean norm of its scores times the entropy of
the scores' magnitudes divided by their sum. This follows the authors' code (PEFT/entropy_masking.py of
github.com/sungminkg/GEM_PEFT). Departures: the logarithm is exact, where theirs adds 1e-8 to its argument; each tensor
keeps at least one entry; if a tensor's part would exceed its entries, the excess goes to the other tensors.
"""

import math
from collections.abc import Sequence

import torch

from gmt.masking.rule import Scores, num_masked


def ratios(tensors: Sequence[Scores], mask_ratio: float) -> list[float]:
    """Return the fraction of each tensor's entries that is masked, so that `mask_ratio` of all entries are masked.

    Args:
        tensors: the scores of each tensor, float; the same tensors in the same order on every process.
        mask_ratio: the fraction of all entries that is masked, in [0, 1).

    Returns:
        A fraction for each tensor; `mask_ratio` for all of them if a score is NaN or Inf, which the selection reports.
    """
    filled = {i: scores.num_entries for i, scores in enumerate(tensors) if scores.num_entries}
    weights = [_weight(tensors[i]) for i in filled]
    by_tensor = [mask_ratio] * len(tensors)
    if not all(map(math.isfinite, weights)):
        return by_tensor
    total = sum(filled.values()) - num_masked(mask_ratio, sum(filled.values()))
    for (i, size), num in zip(filled.items(), shared_out(total, weights, list(filled.values())), strict=True):
        by_tensor[i] = (size - num + 0.5) / size  # masks floor(ratio * size) entries: half an entry against rounding
    return by_tensor


def shared_out(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Return parts of a total in proportion to weights, each rounded down, at least 1 and at most its size."""
    parts = dict.fromkeys(range(len(sizes)), 1)
    remaining, unfilled = total, [i for i, weight in enumerate(weights) if weight > 0]
    while unfilled:
        total_weight = sum(weights[i] for i in unfilled)
        full = [i for i in unfilled if remaining * weights[i] / total_weight >= sizes[i]]
        if not full:
            parts |= {i: max(math.floor(remaining * weights[i] / total_weight), 1) for i in unfilled}
            break
        parts |= {i: sizes[i] for i in full}
        remaining -= sum(sizes[i] for i in full)
        unfilled = [i for i in unfilled if i not in full]
    return list(parts.values())


def _weight(scores: Scores) -> float:
    """Return the norm of a tensor's scores times their entropy, over all shards; NaN if a score is not finite."""
    sums = torch.zeros(3, dtype=torch.float64, device=scores.device)  # of the magnitudes x, of x^2, and of x log x
    for chunk in scores.chunks():
        x = chunk.double().abs()
        sums += torch.stack([x.sum(), x.square().sum(), torch.xlogy(x, x).sum()])
    if scores.shards is not None:
        scores.shards.sum_(sums)
    total, squares, logs = sums.tolist()
    if not total:
        return 0.0
    return math.sqrt(squares) * max(math.log(total) - logs / total, 0.0) if math.isfinite(squares) else math.nan

"""How many entries of each tensor stay under scope=entropy (GEM, Kang et al., arXiv 2508.16191).

A tensor's part of the kept entries goes by the Euclidean norm of its scores times the entropy of their shares in its
sum, as in the authors' code (PEFT/entropy_masking.py of github.com/sungminkg/GEM_PEFT). Departures: the logarithm is
exact, where theirs adds 1e-8 to a share; of each tensor at least one entry stays; what exceeds a tensor's entries goes
to the others.
"""

import math
from collections.abc import Sequence

import torch

from gmt.masking.rule import Scores, num_masked


def ratios(every: Sequence[Scores], mask_ratio: float) -> list[float]:
    """Return the fraction of each tensor's entries that is masked, so that `mask_ratio` of all entries are.

    Args:
        every: the scores of each tensor, float; every shard gives the same tensors in the same order.
        mask_ratio: in [0, 1).

    Returns:
        `mask_ratio` for each where a score is NaN or Inf, so that the selection says so.
    """
    sizes = [scores.num_entries for scores in every]
    weights = [_weight(scores) for scores in every]
    if not all(map(math.isfinite, weights)):
        return [mask_ratio] * len(sizes)
    total = sum(sizes) - num_masked(mask_ratio, sum(sizes))
    kept = shared_out(total, weights, sizes)
    # the floor of a ratio times the size is masked
    return [(size - num + 0.5) / size for size, num in zip(sizes, kept, strict=True)]


def shared_out(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Return parts of a total in proportion to weights, each rounded down, at least 1 and at most its size."""
    kept = dict.fromkeys(range(len(sizes)), 1)
    rest, open_ = total, [i for i, weight in enumerate(weights) if weight > 0]
    while open_:
        whole = sum(weights[i] for i in open_)
        full = [i for i in open_ if rest * weights[i] / whole >= sizes[i]]
        if not full:
            kept |= {i: max(math.floor(rest * weights[i] / whole), 1) for i in open_}
            break
        kept |= {i: sizes[i] for i in full}
        rest -= sum(sizes[i] for i in full)
        open_ = [i for i in open_ if i not in full]
    return list(kept.values())


def _weight(scores: Scores) -> float:
    """Return the norm of a tensor's scores times their entropy, over all shards; NaN if a score is not finite."""
    sums = torch.zeros(3, dtype=torch.float64, device=scores.device)  # of magnitudes, of their squares, of x log x
    for chunk in scores.chunks():
        x = chunk.double().abs()
        sums += torch.stack([x.sum(), x.square().sum(), torch.xlogy(x, x).sum()])
    if scores.shards is not None:
        scores.shards.sum_(sums)
    total, squares, logs = sums.tolist()
    if not total:
        return 0.0
    return math.sqrt(squares) * max(math.log(total) - logs / total, 0.0) if math.isfinite(squares) else math.nan

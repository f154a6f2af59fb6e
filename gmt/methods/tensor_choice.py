"""Chooses tensors under a budget of operations: GreenTrainer's dynamic programme (arXiv 2309.13192, Section 3.3).

Knows nothing of models. Tensors are in the order of the forward pass. A set of tensors costs the operations of their
weight gradients, plus those of the backward path from the output down to the deepest of them. Departure: the authors
also charge the path below the deepest tensor, although nothing is computed there.
"""

from __future__ import annotations

from collections.abc import Sequence

_RESOLUTION = 1000  # units into which a budget is divided; costs are rounded up to units, as in the authors' code


def cheapest(of_weights: Sequence[int], of_path: Sequence[int]) -> int:
    """Return the cost of the cheapest single tensor; arguments as for `choose`."""
    return min(weight + path for weight, path in zip(of_weights, of_path, strict=True))


def choose(
    importance: Sequence[float],
    of_weights: Sequence[int],
    of_path: Sequence[int],
    budget: int,
    *,
    resolution: int = _RESOLUTION,
) -> list[bool]:
    """Return the tensors with the largest sum of importances that the budget allows, at least one.

    For each tensor as the deepest one, the tensors above it are the items of a 0/1 knapsack. The choice is optimal if
    the budget is at most `resolution`; else costs are rounded up to its units, so that the budget holds.

    Args:
        importance: the importance of each tensor, in the order of the forward pass.
        of_weights: the operations of each tensor's weight gradient.
        of_path: the operations of the backward path down to each tensor, which fall along the order.
        budget: the number of operations, at least `cheapest`.
        resolution: the number of units into which the budget is divided.
    """
    unit = max(1, -(-budget // resolution))
    capacity = budget // unit
    gains = [0.0] * (capacity + 1)  # for each number of units, the largest importance of tensors above that fit in
    taken: list[tuple[int, int, list[bool]]] = []  # each tensor above, its units, and for which gains it is chosen
    best: tuple[float, int, int, int] | None = None
    for k in reversed(range(len(importance))):
        left = budget - of_path[k] - of_weights[k]
        if left >= 0 and (best is None or importance[k] + gains[left // unit] > best[0]):
            best = (importance[k] + gains[left // unit], k, left // unit, len(taken))
        units = -(-of_weights[k] // unit)
        is_taken = [c >= units and gains[c - units] + importance[k] > gains[c] for c in range(capacity + 1)]
        gains = [gains[c - units] + importance[k] if is_taken[c] else gains[c] for c in range(capacity + 1)]
        taken.append((k, units, is_taken))
    assert best is not None
    _, deepest, left, num_above = best
    chosen = {deepest}
    for k, units, is_taken in reversed(taken[:num_above]):
        if is_taken[left]:
            chosen.add(k)
            left -= units
    return [k in chosen for k in range(len(importance))]

"""The largest rise of a loss within a box around the weights, by gradient ascent, and the mean rise under noise.

The functions take any tensors and any loss, so that tests can use losses with a known answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_MOMENTUM = 0.75
_ENOUGH_RISES = 0.75  # as a fraction of the steps since the last checkpoint


def checkpoints(num_steps: int) -> list[int]:
    """Return the steps at which the step size may be halved (Croce and Hein, arXiv 2003.01690, Section 3.2)."""
    previous, current, steps = 0, 22, []  # in hundredths, so that 0.57 of 100 steps are exactly 57
    while (step := -(-current * num_steps // 100)) < num_steps:
        steps.append(step)
        previous, current = current, current + max(current - previous - 3, 6)
    return steps


def largest_rise(loss: Callable[[], Tensor], weights: Sequence[Tensor], bounds: Sequence[Tensor], steps: int) -> float:
    """Return the largest rise loss(w + delta) - loss(w) with |delta| <= bound that the ascent finds; at least 0.

    The ascent is APGD of Croce and Hein (2020) with the sign of the gradient, momentum 0.75 and a first step of 2
    bounds, as in Andriushchenko et al., arXiv 2302.07011. Departure: it starts at delta = 0 and not at a random point,
    so that it needs no seed.

    Args:
        loss: computes the loss at the weights' current values, differentiably.
        weights: tensors that the ascent changes in place and restores bit for bit.
        bounds: for each weight a tensor of its shape: how far each entry may move, at least 0.
        steps: the number of steps; each takes a forward and a backward pass.

    Raises:
        FloatingPointError: the loss at the weights themselves is NaN or Inf.
    """
    start = [w.detach().clone() for w in weights]
    try:
        with torch.enable_grad():
            return _ascend(loss, weights, start, bounds, steps)
    finally:
        _assign(weights, start)


def _ascend(
    loss: Callable[[], Tensor], weights: Sequence[Tensor], start: Sequence[Tensor], bounds: Sequence[Tensor], steps: int
) -> float:
    deltas = [torch.zeros_like(b) for b in bounds]
    previous, best = [d.clone() for d in deltas], [d.clone() for d in deltas]
    value = loss()
    if not math.isfinite(first := value.item()):
        raise FloatingPointError(f"the loss is {first}")
    largest, largest_before = first, first
    size, halved, rises, checked = 2.0, False, 0, 0
    at_checkpoints = set(checkpoints(steps))
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(value, weights, allow_unused=True)
        alpha = 1.0 if step == 1 else _MOMENTUM
        with torch.no_grad():
            for i, (gradient, bound) in enumerate(zip(gradients, bounds, strict=True)):
                if gradient is None:
                    continue
                target = _clamped(deltas[i] + size * bound * gradient.sign(), bound)
                moved = deltas[i] + alpha * (target - deltas[i]) + (1 - alpha) * (deltas[i] - previous[i])
                previous[i], deltas[i] = deltas[i], _clamped(moved, bound)
        _assign(weights, [w + d for w, d in zip(start, deltas, strict=True)])
        value = loss()
        if (current := value.item()) > largest:  # False for NaN
            largest, best, rises = current, [d.clone() for d in deltas], rises + 1
        if step in at_checkpoints:
            is_stuck = not halved and largest == largest_before
            halved = rises < _ENOUGH_RISES * (step - checked) or is_stuck
            if halved:
                size, deltas, previous = size / 2, [d.clone() for d in best], [d.clone() for d in best]
                _assign(weights, [w + d for w, d in zip(start, deltas, strict=True)])
                value = loss()
            largest_before, rises, checked = largest, 0, step
    return largest - first


def mean_rise(
    loss: Callable[[], Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    draws: int,
    generator: torch.Generator,
) -> float:
    """Return the mean over draws of loss(w + scale * n) - loss(w) with n from the standard normal distribution.

    Args:
        loss: computes the loss at the weights' current values.
        weights: tensors that each draw changes in place, restored bit for bit.
        scales: for each weight a tensor of its shape.
        draws: the number of draws.
        generator: a generator on the CPU.
    """
    start = [w.detach().clone() for w in weights]
    try:
        with torch.no_grad():
            first, total = loss().item(), 0.0
            for _ in range(draws):
                noise = (torch.randn(s.shape, generator=generator).to(s) for s in scales)
                _assign(weights, [w + s * n for w, s, n in zip(start, scales, noise, strict=True)])
                total += loss().item() - first
            return total / draws
    finally:
        _assign(weights, start)


def _clamped(delta: Tensor, bound: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(delta, -bound), bound)


@torch.no_grad()
def _assign(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)

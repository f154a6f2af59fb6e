"""AdamW that moves an entry only where its momentum and its gradient agree (Liang et al., arXiv 2411.16085)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

SMALLEST_SHARE = 1e-3  # the authors' lower bound, which limits the steps if only a few entries agree


class CautiousAdamW(Optimizer):
    """AdamW whose step is multiplied by [m * g > 0] and divided by the share of the parameter's entries with m * g > 0.

    m is the momentum and g the gradient. Departure from the authors' code: weights decay before the step, as in torch's
    AdamW, and not after it.

    Args:
        params: groups of parameters with `lr`, `weight_decay`, `betas` and `eps`.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})
        self.observer: Callable[[Tensor, Tensor], None] | None = None
        """Called at each step with a parameter and a tensor of its shape: 1 where momentum and gradient agree, else
        0."""
        self._num_moved: list[Tensor] = []  # on the devices, so that a step does not wait for them
        self._num_entries = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state of a copy, which starts without an observer; torch's load_state_dict calls this too."""
        super().__setstate__(state)
        for name, value in (("observer", None), ("_num_moved", []), ("_num_entries", 0)):
            vars(self).setdefault(name, value)

    @property
    def kept_fraction(self) -> float:
        """The fraction of entries that the last step moved, apart from weight decay; NaN before the first step."""
        if not self._num_moved:
            return math.nan
        return float(torch.stack([num.cpu() for num in self._num_moved]).sum()) / self._num_entries

    @property
    def num_moved(self) -> int:
        """The number of entries that the last step moved, apart from weight decay; 0 before the first step."""
        return round(sum(float(num) for num in self._num_moved))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._num_moved, self._num_entries = [], 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        (beta1, beta2), step, lr = group["betas"], state["step"], group["lr"]
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        agrees = (first * grad > 0).to(p.dtype)
        if self.observer is not None:
            self.observer(p, agrees)
        num_moved = agrees.sum(dtype=torch.float32)
        self._num_moved.append(num_moved)
        self._num_entries += p.numel()
        scale = (num_moved / p.numel()).clamp(min=SMALLEST_SHARE).to(p.dtype)
        denominator = (second.sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        p.mul_(1 - lr * group["weight_decay"])
        p.addcdiv_(first * (agrees / scale), denominator, value=-lr / (1 - beta1**step))

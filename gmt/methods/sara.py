"""SaRA (Hu et al., arXiv 2409.06633, Section 3): trains the entries that are nearly zero, and no others.

The optimizer has state and gradients for these entries alone; with several workers, gradients are dense until the step.
After the step `reselect_at`, only entries that are still below the threshold continue to train, so that the support
shrinks.

Departures: the authors' code replaces chosen entries by |w|, so that the first gradient is computed at changed weights,
and moves nothing at the step of the second choice; neither happens here, and entries that continue to train keep their
moments. In a step, all micro-batches share one drawn matrix for the nuclear norm. Its gradient is added at the
optimizer's step, after clipping, which needs one decomposition for each step and not one for each micro-batch; the
logged loss does not include the norm.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.protocol import ParameterGroup
    from gmt.optimizers.packed_adamw import PackedAdamW

_SMALLEST_SIDE = 64  # the authors take matrices with both sides above it


@dataclass(frozen=True, kw_only=True)
class Sara:
    """Trains the entries of all parameters whose magnitude is below a threshold.

    Args:
        name: the name of the method in tables.
        threshold: entries whose magnitude is below it train; above 0.
        strength: the weight of the nuclear norm of the trained entries in one matrix, drawn at each step; 0 for none.
        reselect_at: the optimizer step after which only the trained entries that are still below the threshold continue
            to train; null for never.
    """

    name: str
    threshold: float
    strength: float
    reselect_at: int | None

    def __post_init__(self) -> None:
        settings.number("method.threshold", self.threshold, "must be above 0", low=0, open_low=True)
        settings.number("method.strength", self.strength, "must be at least 0", low=0)
        if self.reselect_at is not None:
            settings.integer("method.reselect_at", self.reselect_at, low=1)

    @property
    def target_density(self) -> None:
        """None: no share is set, since the weights decide how many entries train."""
        return None

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return AdamW with state for the entries that train."""
        from gmt.optimizers.packed_adamw import PackedAdamW

        return PackedAdamW(groups)

    def attach(self, model: nn.Module, optimizer: PackedAdamW, *, seed: int, facts_every: int) -> SaraAtWork:
        """Choose the entries, unless the optimizer has loaded them from a checkpoint, and return the method at work.

        Raises:
            UserError: no entry is below the threshold.
        """
        from gmt.masking.parameters import flat, names_of

        named = [(name, p) for p, name in names_of(model).items() if p.requires_grad]
        for _, p in named:
            if optimizer.support(p) is None:
                optimizer.keep(p, flat(p.detach()).abs() < self.threshold)
        work = SaraAtWork(self, optimizer, [p for _, p in named], seed=seed)
        if not work.num_kept:
            work.detach()
            smallest = min(float(p.detach().abs().min()) for _, p in named)
            raise UserError(
                f"method.threshold must be above {smallest:.3g}, the smallest magnitude of the model's weights, got "
                f"{self.threshold}"
            )
        return work


class SaraAtWork(Dense):
    """Counts the entries that train, and adds the nuclear norm's gradient at each step."""

    def __init__(self, method: Sara, optimizer: PackedAdamW, parameters: Sequence[nn.Parameter], *, seed: int):
        from gmt.masking.processes import num_processes

        self._method, self._optimizer, self._seed = method, optimizer, seed
        self._parameters = parameters
        self._matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) > _SMALLEST_SIDE]
        self._num_steps = 0
        self._num_trained = self._num_touched = self.num_kept
        self._norm: Tensor | None = None
        if num_processes() == 1:  # with several, DDP must average gradients while they are dense
            optimizer.follow(self)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def arrived(self, p: nn.Parameter) -> bool:
        """Return True: the entries are known before any gradient arrives."""
        return True

    def complete(self) -> None:
        """Do nothing: a step chooses no entries."""

    @property
    def num_kept(self) -> int:
        """The number of entries that train."""
        supports = [self._optimizer.support(p) for p in self._parameters]
        return sum(support.num_kept for support in supports if support is not None)

    @property
    def _has_reselected(self) -> bool:
        return self._method.reselect_at is not None and self._num_steps >= self._method.reselect_at

    def num_trained(self) -> int:
        """Return how many entries the last step trained."""
        return self._num_trained

    def num_touched(self) -> int:
        """Return the number of entries of the first choice, which includes all later ones."""
        return self._num_touched

    def facts(self) -> dict[str, float]:
        """Return the share of entries that train, the number of reselections, and the last step's nuclear norm."""
        facts = {
            "kept_fraction": self.num_kept / sum(p.numel() for p in self._parameters),
            "num_reselections": float(self._has_reselected),
        }
        return facts if self._norm is None else facts | {"nuclear_norm": float(self._norm)}

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of steps and of trained entries so far; the optimizer's state has the entries."""
        return {"num_steps": self._num_steps, "num_touched": self._num_touched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's numbers of steps and of entries."""
        self._num_steps, self._num_touched = state["num_steps"], state["num_touched"]

    def detach(self) -> None:
        """Remove the hooks; the optimizer still trains the chosen entries only."""
        self._optimizer.unfollow()
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, *_: Any) -> None:
        """Add the nuclear norm's gradient to the gradient of one matrix."""
        self._num_trained = self.num_kept
        if not self._method.strength or not self._matrices:
            return
        import torch

        draw = random.Random(f"{self._seed} {self._num_steps}")  # the same on every worker
        p = draw.choice(self._matrices)
        support = self._optimizer.support(p)
        assert support is not None
        with torch.no_grad():
            trained = p.detach().float() * support.mask().view(p.shape)
            self._norm, gradient = nuclear_norm(trained)
            gradient = gradient.mul_(self._method.strength).to(p.dtype)
            for q, arrived in self._optimizer.gathered():
                if q is p:  # its gradient is gathered already, or still dense
                    norm_gradient = gradient if arrived.shape == p.shape else support.gather(gradient.flatten())
                    arrived.add_(norm_gradient)

    def _after_step(self, *_: Any) -> None:
        """At step reselect_at, stop training the entries that have grown to the threshold."""
        self._num_steps += 1
        if self._num_steps != self._method.reselect_at:
            return
        from gmt.masking.parameters import flat

        for p in self._parameters:  # an entry that does not train stays at or above the threshold
            self._optimizer.keep(p, flat(p.detach()).abs() < self._method.threshold)


def nuclear_norm(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the singular values of a matrix, and its gradient U V^T without directions of value zero.

    Args:
        x: a matrix of float32.
    """
    import torch

    u, values, vt = torch.linalg.svd(x, full_matrices=False)
    is_positive = values > values.max() * max(x.shape) * torch.finfo(x.dtype).eps
    return values.sum(), (u * is_positive) @ vt

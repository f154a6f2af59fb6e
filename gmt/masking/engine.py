"""The mask on a torch optimizer: it masks once, at the real optimizer step, after accumulation and clipping.

`torch.optim.Optimizer.register_step_pre_hook` fires in any loop, so the engine needs to know nothing of it.
Masking the gradient is not a sparse update: Adam's momentum and weight decay move masked entries too. What
moved is for the caller to measure and log.
"""

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.selection import keep_masks
from gmt.masking.spec import MaskSpec


class NonFiniteGradientError(FloatingPointError):
    """A gradient holds NaN or Inf, so that it can't be ranked; names the parameter."""


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """What happened at the last optimizer step.

    Args:
        step: optimizer steps seen so far.
        num_entries: entries of all ranked gradients.
        density: fraction of them that was kept, in [0, 1]; zeros are never counted as kept.
        zero_fraction: fraction of them that was exactly zero before masking.
        energy_kept: share of the squared gradient norm that was kept, in [0, 1]; 1 if the gradient was all zero.
        seconds: wall-clock time that masking took.
    """

    step: int
    num_entries: int
    density: float
    zero_fraction: float
    energy_kept: float
    seconds: float


class Mask:
    """A mask attached to an optimizer; made by `attach`."""

    def __init__(self, named_parameters: dict[str, nn.Parameter], spec: MaskSpec, seed: int):
        self.spec = spec
        self._parameters = named_parameters
        self._seed = seed
        self._step = 0
        self._facts: MaskFacts | None = None
        self._handle: Any = None

    def facts(self) -> MaskFacts | None:
        """What happened at the last step, or None before the first."""
        return self._facts

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint must hold: the step, from which every random draw derives."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from a checkpoint's state."""
        self._step = state["step"]

    def detach(self) -> None:
        """Takes the hook off the optimizer."""
        self._handle.remove()

    @torch.no_grad()
    def _before_step(self, *_: Any) -> None:
        started = time.perf_counter()
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        norms = {name: _norm(gradient) for name, gradient in gradients.items()}
        for name, gradient in gradients.items():
            # The norm is cheap and finite but for huge gradients: only those are looked at entry by entry.
            if not math.isfinite(norms[name]) and not bool(torch.isfinite(gradient).all()):
                raise NonFiniteGradientError(f"the gradient of {name} holds NaN or Inf at step {self._step + 1}")
        keeps = self._keep_masks(gradients) if self.spec.mask_ratio else None
        self._step += 1
        self._facts = _apply(gradients, norms, keeps, self._step, started)

    def _keep_masks(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        scores = {name: self._score(name, g) for name, g in gradients.items()}
        groups = [list(scores)] if self.spec.scope == "global" else [[name] for name in scores]
        keeps: dict[str, Tensor] = {}
        for names in groups:
            masks = keep_masks([scores[n] for n in names], self.spec.mask_ratio)
            keeps.update(zip(names, masks, strict=True))
        return keeps

    def _score(self, name: str, gradient: Tensor) -> Tensor:
        if self.spec.signal == "gradient":
            return gradient
        # Derived from (seed, step, name) alone: the same draw after a checkpoint and on every device.
        key = hashlib.sha256(f"{self._seed}/{self._step}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
        return torch.rand(gradient.shape, generator=generator).to(gradient.device)


def _norm(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float32))


def _apply(
    gradients: dict[str, Tensor], norms: dict[str, float], keeps: dict[str, Tensor] | None, step: int, started: float
) -> MaskFacts:
    """Zeroes what is not kept, in place, and says what that did."""
    num_entries = num_kept = num_zero = 0
    energy = energy_kept = 0.0
    for name, gradient in gradients.items():
        nonzero = int(torch.count_nonzero(gradient))
        before = norms[name] ** 2
        num_entries += gradient.numel()
        num_zero += gradient.numel() - nonzero
        energy += before
        if keeps is None:
            num_kept, energy_kept = num_kept + nonzero, energy_kept + before
        else:
            gradient.mul_(keeps[name])
            num_kept += int(torch.count_nonzero(gradient))
            energy_kept += _norm(gradient) ** 2
    return MaskFacts(
        step=step,
        num_entries=num_entries,
        density=num_kept / num_entries if num_entries else 0.0,
        zero_fraction=num_zero / num_entries if num_entries else 0.0,
        energy_kept=energy_kept / energy if energy else 1.0,
        seconds=time.perf_counter() - started,
    )


def attach(model: nn.Module, optimizer: torch.optim.Optimizer, spec: MaskSpec, *, seed: int = 0) -> Mask:
    """Masks the gradients that `optimizer` sees, in place, from its next step on.

    Args:
        model: names the parameters; a tied weight is ranked once.
        optimizer: any torch optimizer over parameters of `model`.
        spec: the mask's settings.
        seed: for `signal="random"`: the draw at a step depends on seed, step and parameter name only.

    Returns:
        The attached mask; `detach()` removes it.

    Raises:
        ValueError: the optimizer holds a parameter that `model` does not.
        NonFiniteGradientError: later, at a step whose gradient holds NaN or Inf.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: p for name, p in model.named_parameters() if id(p) in held}
    if len(named) < len(held):
        raise ValueError(f"the optimizer holds {len(held) - len(named)} parameters that the model does not name")
    mask = Mask(named, spec, seed)
    mask._handle = optimizer.register_step_pre_hook(mask._before_step)
    return mask

"""Supports of which a part is replaced at intervals: the state and the steps of SpIEL (gmt/methods/spiel.py).

Shape suffixes: N entries of a parameter, flattened; K of them in its support; C candidates; J that join, L that leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.packed_mask import PackedMask
from gmt.masking.packing import pack, unpack
from gmt.masking.parameters import flat, names_of
from gmt.optimizers.packed_adamw import PackedAdamW


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """Settings of a renewal, the replacement of a part of a support; see gmt.methods.spiel.Spiel.

    Args:
        every: the number of steps from one renewal to the next.
        num_collected: the number of steps before a renewal over which gradients are summed.
        share: the share of a support that is replaced at the peak learning rate.
        first_share: the share that the first renewal replaces.
    """

    every: int
    num_collected: int
    share: float
    first_share: float


@dataclass
class Candidates:
    """Entries that may join a support.

    Args:
        index_C: the indices of the entries, int64.
        step_C: their gradients of this step so far, before clipping, float32.
        sum_C, square_C: sums over earlier steps of their gradients, and of the squares, after clipping; float32.
    """

    index_C: Tensor
    step_C: Tensor
    sum_C: Tensor
    square_C: Tensor

    def end_step(self, clipping: Tensor | None) -> None:
        """Add the step's gradients to the sums, scaled by the optimizer's clipping factor."""
        if clipping is not None:
            self.step_C *= clipping.to(self.step_C.device)
        self.sum_C += self.step_C
        self.square_C += self.step_C**2
        self.step_C.zero_()


class GrowingSupports:
    """Renews the supports of a packed mask.

    It sits between the optimizer and the mask, reads each gradient while it is dense, and renews the supports after the
    optimizer's step. Every entry outside of a support has the base's value.

    Args:
        renewal: the settings.
        model: gives the parameters' names.
        optimizer: the optimizer, which followed the mask and follows this object from now on.
        mask: draws the initial supports.
    """

    def __init__(self, renewal: Renewal, model: nn.Module, optimizer: PackedAdamW, mask: PackedMask):
        self._renewal, self._optimizer, self._mask = renewal, optimizer, mask
        self._names = names_of(model)
        self._step = 0
        self._base: dict[str, Tensor] = {}  # the base's values of the entries in the support, [K]
        self._ever: dict[str, Tensor] = {}  # whether an entry has ever trained, packed bits
        self._renewed: set[str] = set()  # parameters whose support has not trained since its renewal
        self._candidates: dict[str, Candidates] = {}
        self._handle: Any = None
        if mask.spec.mask_ratio:
            optimizer.follow(self)
            self._handle = optimizer.register_step_post_hook(lambda *_: self._end_step())

    def arrived(self, p: nn.Parameter) -> bool:
        """Read the dense gradient of a parameter; see gmt.optimizers.packed_adamw.Chooser."""
        if not self._mask.arrived(p):
            return False
        name, support = self._names[p], self._optimizer.support(p)
        assert support is not None
        assert p.grad is not None
        if name not in self._base:
            self._base[name] = support.gather(flat(p.detach()))
            self._ever[name] = pack(support.mask())
        if name in self._renewed:
            self._ever[name] |= pack(support.mask())
            self._renewed.discard(name)
        if self._step % self._renewal.every >= self._renewal.every - self._renewal.num_collected:
            self._collect(name, flat(p.grad), support.mask())
        return True

    def complete(self) -> None:
        """Choose entries once all gradients of a step have arrived."""
        self._mask.complete()

    def num_ever(self) -> int:
        """Return the number of entries that have trained so far; with mask_ratio 0, of all entries."""
        if not self._mask.spec.mask_ratio:
            return self._mask.num_trained()
        sizes = {name: p.numel() for p, name in self._names.items()}
        return sum(int(unpack(ever, sizes[name]).sum()) for name, ever in self._ever.items())

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold."""
        candidates = {name: dict(vars(sums)) for name, sums in self._candidates.items()}
        return {
            "step": self._step,
            "base": self._base,
            "ever": self._ever,
            "renewed": sorted(self._renewed),
            "candidates": candidates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        devices = {name: p.device for p, name in self._names.items()}
        self._step = state["step"]
        self._renewed = set(state.get("renewed", ()))  # an older state counts newcomers at their renewal
        self._base = {name: base.to(devices[name]) for name, base in state["base"].items()}
        self._ever = {name: ever.to(devices[name]) for name, ever in state["ever"].items()}
        self._candidates = {
            name: Candidates(**{key: value.to(devices[name]) for key, value in sums.items()})
            for name, sums in state["candidates"].items()
        }

    def remove(self) -> None:
        """Stop the renewals."""
        if self._handle is not None:
            self._handle.remove()

    def _collect(self, name: str, gradient_N: Tensor, keep_N: Tensor) -> None:
        """Choose candidates by the first gradient outside of the support, and add up the candidates' gradients."""
        if name not in self._candidates:
            outside_N = gradient_N.abs().masked_fill(keep_N, 0)
            num = min(int(keep_N.sum()), int(outside_N.count_nonzero()))
            index_C = outside_N.topk(num).indices.sort().values
            zeros = [gradient_N.new_zeros(num, dtype=torch.float32) for _ in range(3)]
            self._candidates[name] = Candidates(index_C, *zeros)
        candidates = self._candidates[name]
        candidates.step_C += gradient_N[candidates.index_C]

    @torch.no_grad()
    def _end_step(self) -> None:
        for candidates in self._candidates.values():
            candidates.end_step(self._optimizer.clipping)
        self._step += 1
        if self._step % self._renewal.every:
            return
        for group in self._optimizer.param_groups:
            share = self._renewal.first_share
            if self._step > self._renewal.every:
                share = self._renewal.share * group["lr"] / group.get("initial_lr", group["lr"])
            for p in group["params"]:
                if self._names[p] in self._candidates:
                    self._renew(p, share)
        self._candidates = {}

    def _renew(self, p: nn.Parameter, share: float) -> None:
        """Remove a share of the entries from a support, and add as many candidates."""
        name, support, weight_N = self._names[p], self._optimizer.support(p), flat(p.detach())
        assert support is not None
        candidates = self._candidates[name]
        num = min(math.floor(share * support.num_kept), len(candidates.index_C))
        if not num:
            return
        keep_N = support.mask()
        moved_K = (support.gather(weight_N) - self._base[name]).abs()
        index_L = keep_N.nonzero().flatten()[moved_K.sort(stable=True).indices[:num]]
        grown = candidates.sum_C.abs().sort(descending=True, stable=True).indices[:num].sort().values
        index_J = candidates.index_C[grown]
        base_N = weight_N.clone()
        support.scatter_(base_N, self._base[name])
        weight_N[index_L] = base_N[index_L]
        if not p.is_contiguous():
            p.copy_(weight_N.view(p.shape))
        keep_N[index_L], keep_N[index_J] = False, True
        self._optimizer.keep(p, keep_N)
        new = self._optimizer.support(p)
        assert new is not None
        self._base[name] = new.gather(base_N)
        self._renewed.add(name)
        num_steps = self._renewal.num_collected
        self._optimizer.begin(
            p,
            index_J,
            first_J=candidates.sum_C[grown] / num_steps,
            second_J=candidates.square_C[grown] / num_steps,
            age=num_steps,
        )

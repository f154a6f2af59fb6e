"""A mask whose optimizer holds gradients and moments of kept entries alone (`moments: packed`).

The mask chooses supports and hands them to the optimizer, which gathers gradients by them as they arrive
(gmt/optimizers/packed_adamw.py). When a support is chosen decides how long gradients are dense at such a step:

- with scope=tensor, by weights, by a draw or by the first micro-batch's gradient (`first_micro_batch`): when a first
  gradient of the tensor arrives;
- by the step's gradient, or over several tensors: at the end of the step. So until then its gradients are all dense, as
  in any training: they decide the ranks, or which tensors have gradients and are ranked together.

At all other steps no dense gradient outlives its tensor.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from gmt.masking.engine import Mask
from gmt.masking.facts import Sample
from gmt.masking.parameters import Ranked, first_nonfinite_tensor, flat, ranked
from gmt.masking.processes import num_processes
from gmt.masking.sampling import pick
from gmt.masking.spec import MaskSpec
from gmt.masking.support import Support


class PacksMoments(Protocol):
    """An optimizer that a packed mask works with; see gmt.optimizers.packed_adamw.PackedAdamW."""

    def follow(self, chooser: "PackedMask") -> None:
        """Ask the mask for supports."""

    def unfollow(self) -> None:
        """Stop asking the mask for supports."""

    def keep(self, p: nn.Parameter, keep_N: Tensor) -> None:
        """Set the kept entries of a parameter."""

    def support(self, p: nn.Parameter) -> Support | None:
        """Return the kept entries of a parameter."""

    def gathered(self) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """Return the gradients of a step."""


class PackedMask(Mask):
    """A mask with `moments: packed`; made by `attach`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, spec: MaskSpec, **more: Any):
        _refuse(optimizer)
        self._packed = cast(PacksMoments, optimizer)
        self._sampled: dict[str, Tensor] = {}  # gradients of the measured entries, at a measured step
        super().__init__(model, optimizer, spec, **more)
        self._due = set(self._with_support())  # parameters whose support is chosen when their next gradient is there
        if spec.mask_ratio:
            self._packed.follow(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; the supports are in the optimizer's state or in this one."""
        super().load_state_dict(state)
        parameters = {self._names[p]: p for p in self._with_support()}
        for name, keep_N in self._take_masks().items():
            self._packed.keep(parameters[name], keep_N)
        self._due = self._due_at_next_step()

    def detach(self) -> None:
        """Take the mask off the optimizer, which goes on with the supports of the last step."""
        super().detach()
        self._packed.unfollow()

    def arrived(self, p: nn.Parameter) -> bool:
        """A micro-batch's gradient of a parameter is there; return whether its support holds for this step."""
        if p in self._excluded:
            if p in self._frozen:
                p.grad = None
            return False
        if p in self._due and self._is_early:
            self._choose([p])
        if p in self._due:
            return False
        self._look_at(p)
        return True

    @torch.no_grad()
    def complete(self) -> None:
        """All gradients of a step are there: choose the supports that it decides."""
        if dense := [p for p in self._with_support() if p in self._due and p.grad is not None]:
            self._choose(dense)
            for p in dense:
                self._look_at(p)

    @torch.no_grad()
    def _mask(self) -> None:
        if not self.spec.mask_ratio:
            super()._mask()
            return
        started = time.perf_counter()
        self._is_skipped, self._look_again = False, None
        if any(p not in self._names for p in self._held_by_optimizer()):  # a group was added
            self._learn_parameters()
            self._packed.follow(self)
            self._due |= {p for p in self._with_support() if self._packed.support(p) is None}
        self.complete()
        self._num_whole = self._trained_whole()
        gradients = {p: g for p, g in self._packed.gathered() if p not in self._excluded}
        if bad := first_nonfinite_tensor({self._names[p]: gradient for p, gradient in gradients.items()}):
            raise self._refusal(bad)
        supports = {p: support for p in gradients if (support := self._packed.support(p)) is not None}
        self._num_entries = sum(support.num_entries for support in supports.values())
        self._density = sum(support.num_kept for support in supports.values()) / max(self._num_entries, 1)
        if self._needs_facts():
            every = [self._without_gradient(p) for p in supports]
            kept = partial(_kept_sample, self._sample, supports)
            self._prepare_facts(every, kept, gradients=self._sampled)
        self._step += 1
        self._seconds = time.perf_counter() - started

    @torch.no_grad()
    def _finish(self) -> None:
        super()._finish()
        self._sampled = {}
        self._due = self._due_at_next_step()

    @property
    def _is_early(self) -> bool:
        """Whether a support is chosen when a first gradient arrives."""
        return self.spec.scope == "tensor" and (self.spec.first_micro_batch or not self._signal.reads_gradient)

    def _held_by_optimizer(self) -> Iterator[nn.Parameter]:
        for group in self._optimizer.param_groups:
            yield from group["params"]

    def _with_support(self) -> list[nn.Parameter]:
        """The parameters that have a support, in the optimizer's order."""
        return [p for p in self._held_by_optimizer() if p not in self._excluded]

    def _due_at_next_step(self) -> set[nn.Parameter]:
        is_new = self.spec.is_refreshed_at(self._step)
        return {p for p in self._with_support() if is_new or self._packed.support(p) is None}

    @torch.no_grad()
    def _choose(self, parameters: Iterable[nn.Parameter]) -> None:
        """Choose the supports of parameters, and hand them over; those of one tensor after the other if they can be."""
        reads_gradients = self._signal.reads_gradient
        every = [self._as_ranked(p, p.grad if reads_gradients else p.detach()) for p in parameters]
        for some in [[r] for r in every] if self.spec.scope == "tensor" else [every]:
            self._select(some)
            masks = self._take_masks()
            for r in some:
                self._packed.keep(r.parameter, masks.pop(r.name))
                self._due.discard(r.parameter)

    def _take_masks(self) -> dict[str, Tensor]:
        masks, self._masks = self._masks, {}
        return masks

    def _look_at(self, p: nn.Parameter) -> None:
        """Add a dense gradient's entries that are looked at to those of earlier micro-batches."""
        if not self._is_looked_at(self._step + 1):
            return
        assert p.grad is not None
        r = self._without_gradient(p)
        if not self._sampled:
            self._sample.choose([self._without_gradient(q) for q in self._with_support() if q.requires_grad])
        sample = pick(flat(p.grad), self._sample.index(r))
        self._sampled[r.name] = self._sampled[r.name] + sample if r.name in self._sampled else sample

    def _without_gradient(self, p: nn.Parameter) -> Ranked:
        """A parameter whose gradient is gone, for what needs no gradient."""
        return self._as_ranked(p, p.detach())

    def _as_ranked(self, p: nn.Parameter, gradient: Tensor | None) -> Ranked:
        return ranked(
            self._names[p],
            p,
            self._signal,
            seed=self._seed,
            draw=self._step,
            scale=1.0,
            accumulated_N=None,
            first_moment=None,
            gradient=gradient,
        )


def _kept_sample(sample: Sample, supports: Mapping[nn.Parameter, Support], r: Ranked) -> Tensor:
    index, support = sample.index(r), supports[r.parameter]
    return support.mask() if index is None else support.holds(index)


def _refuse(optimizer: torch.optim.Optimizer) -> None:
    kind = type(optimizer).__name__
    needed: Sequence[str] = ("follow", "unfollow", "keep", "support", "gathered")
    if not all(callable(getattr(optimizer, name, None)) for name in needed):
        raise ValueError(
            f"moments=packed needs the optimizer gmt.optimizers.packed_adamw.PackedAdamW, whose state is of kept "
            f"entries alone, got {kind}"
        )
    if (num := num_processes()) > 1:
        raise ValueError(
            f"moments=packed trains on one process, got {num}: DDP averages gradients after they were gathered"
        )

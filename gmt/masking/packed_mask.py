"""A mask whose optimizer stores gradients and moments of the kept entries only (`moments: packed`).

The mask chooses supports, the sets of kept entries, and passes them to the optimizer, which gathers the gradients of
these entries as the gradients arrive (gmt/optimizers/packed_adamw.py). At a step that chooses supports, the time of
the choice decides how long gradients are dense:

- A support of one tensor (scope=tensor) that depends on weights, on a draw or on the first micro-batch's gradient
  (`first_micro_batch`) is chosen when the tensor's first gradient arrives.
- A support that depends on the gradient of the whole step, or on several tensors, is chosen at the end of the step.
  Until then all gradients are dense, as in any training: they give the scores, or show which tensors have gradients and
  are ranked together.

At all other steps, each dense gradient is freed before the next tensor's is computed.
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
    """An optimizer that works with a packed mask; see gmt.optimizers.packed_adamw.PackedAdamW."""

    def follow(self, chooser: "PackedMask") -> None:
        """Let the mask choose the supports."""

    def unfollow(self) -> None:
        """Stop calling the mask."""

    def keep(self, p: nn.Parameter, keep_N: Tensor) -> None:
        """Set the kept entries of a parameter."""

    def support(self, p: nn.Parameter) -> Support | None:
        """Return the kept entries of a parameter; None if none were set."""

    def gathered(self) -> Iterable[tuple[nn.Parameter, Tensor]]:
        """Return the parameters with a gradient in this step, and their gradients, gathered or dense."""


class PackedMask(Mask):
    """A mask with `moments: packed`; made by `attach`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, spec: MaskSpec, **options: Any):
        _check_optimizer(optimizer)
        self._packed = cast(PacksMoments, optimizer)
        self._sampled_gradients: dict[str, Tensor] = {}  # of the sampled entries, at a measured step
        super().__init__(model, optimizer, spec, **options)
        self._due = set(self._with_support())  # parameters whose support is chosen at this step
        if spec.mask_ratio:
            self._packed.follow(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; the supports are in this state or in the optimizer's."""
        super().load_state_dict(state)
        parameters = {self._names[p]: p for p in self._with_support()}
        for name, keep_N in self._pop_masks().items():
            self._packed.keep(parameters[name], keep_N)
        self._due = self._due_at_next_step()

    def detach(self) -> None:
        """Remove the mask from the optimizer, which continues with the supports of the last step."""
        super().detach()
        self._packed.unfollow()

    def arrived(self, p: nn.Parameter) -> bool:
        """Note that a micro-batch added to `p.grad`; return whether the support of `p` is final for this step."""
        if p in self._excluded:
            if p in self._frozen:
                p.grad = None
            return False
        if p in self._due and self._chooses_on_arrival:
            self._choose([p])
        if p in self._due:
            return False
        self._sample_gradient(p)
        return True

    @torch.no_grad()
    def complete(self) -> None:
        """Choose the supports that depend on all gradients of a step; called when these have arrived."""
        if dense := [p for p in self._with_support() if p in self._due and p.grad is not None]:
            self._choose(dense)
            for p in dense:
                self._sample_gradient(p)

    @torch.no_grad()
    def _mask(self) -> None:
        if not self.spec.mask_ratio:
            super()._mask()
            return
        started = time.perf_counter()
        self._is_skipped, self._measure_again = False, None
        if any(p not in self._names for p in self._optimizer_parameters()):  # a group was added
            self._read_parameters()
            self._packed.follow(self)
            self._due |= {p for p in self._with_support() if self._packed.support(p) is None}
        self.complete()
        self._num_unmasked = self._count_unmasked()
        gradients = {p: g for p, g in self._packed.gathered() if p not in self._excluded}
        if name := first_nonfinite_tensor({self._names[p]: gradient for p, gradient in gradients.items()}):
            raise self._gradient_error(name)
        supports = {p: support for p in gradients if (support := self._packed.support(p)) is not None}
        self._num_entries = sum(support.num_entries for support in supports.values())
        self._density = sum(support.num_kept for support in supports.values()) / max(self._num_entries, 1)
        if self._needs_facts():
            parameters = [self._without_gradient(p) for p in supports]
            kept = partial(_kept_sample, self._sample, supports)
            self._prepare_facts(parameters, kept, gradients=self._sampled_gradients)
        self._step += 1
        self._seconds = time.perf_counter() - started

    @torch.no_grad()
    def _finish(self) -> None:
        super()._finish()
        self._sampled_gradients = {}
        self._due = self._due_at_next_step()

    @property
    def _chooses_on_arrival(self) -> bool:
        """Whether a support is chosen when the tensor's first gradient arrives."""
        return self.spec.scope == "tensor" and (self.spec.first_micro_batch or not self._signal.reads_gradient)

    def _optimizer_parameters(self) -> Iterator[nn.Parameter]:
        for group in self._optimizer.param_groups:
            yield from group["params"]

    def _with_support(self) -> list[nn.Parameter]:
        """Return the parameters that have a support, in the optimizer's order."""
        return [p for p in self._optimizer_parameters() if p not in self._excluded]

    def _due_at_next_step(self) -> set[nn.Parameter]:
        is_refreshed = self.spec.is_refreshed_at(self._step)
        return {p for p in self._with_support() if is_refreshed or self._packed.support(p) is None}

    @torch.no_grad()
    def _choose(self, parameters: Iterable[nn.Parameter]) -> None:
        """Choose the supports of parameters and pass them to the optimizer; with scope=tensor, one after the other."""
        reads_gradients = self._signal.reads_gradient
        ranked_parameters = [self._as_ranked(p, p.grad if reads_gradients else p.detach()) for p in parameters]
        is_one_by_one = self.spec.scope == "tensor"
        for members in [[r] for r in ranked_parameters] if is_one_by_one else [ranked_parameters]:
            self._select(members)
            masks = self._pop_masks()
            for r in members:
                self._packed.keep(r.parameter, masks.pop(r.name))
                self._due.discard(r.parameter)

    def _pop_masks(self) -> dict[str, Tensor]:
        masks, self._masks = self._masks, {}
        return masks

    def _sample_gradient(self, p: nn.Parameter) -> None:
        """Add the sampled entries of a dense gradient to those of earlier micro-batches, if this step is measured."""
        if not self._is_measured(self._step + 1):
            return
        assert p.grad is not None
        r = self._without_gradient(p)
        if not self._sampled_gradients:
            self._sample.set_share([self._without_gradient(q) for q in self._with_support() if q.requires_grad])
        sample = pick(flat(p.grad), self._sample.index(r))
        if r.name in self._sampled_gradients:
            sample = self._sampled_gradients[r.name] + sample
        self._sampled_gradients[r.name] = sample

    def _without_gradient(self, p: nn.Parameter) -> Ranked:
        """Return a parameter whose gradient was freed; the weights take the gradient's place, which is not read."""
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


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if the optimizer does not pack moments, or if several processes train together."""
    class_name = type(optimizer).__name__
    methods: Sequence[str] = ("follow", "unfollow", "keep", "support", "gathered")
    if not all(callable(getattr(optimizer, name, None)) for name in methods):
        raise ValueError(
            f"moments=packed needs the optimizer gmt.optimizers.packed_adamw.PackedAdamW, which has state for kept "
            f"entries only, got {class_name}"
        )
    if (num := num_processes()) > 1:
        raise ValueError(
            f"moments=packed trains on one process, got {num}: DDP averages gradients after they were gathered"
        )

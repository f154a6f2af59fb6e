"""A mask on a torch optimizer, which masks once at each real optimizer step, after accumulation and clipping.

Before a step (gmt/masking/step_hook.py) the mask ranks the entries, and zeroes masked gradients or copies the weights
and moments that must not change. After the step it restores the copies.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking import refusals
from gmt.masking.activations import Activations, Batches
from gmt.masking.choosing import NonFiniteScoreError, choose_entries, choose_units, density, groups_of
from gmt.masking.counting import as_bits
from gmt.masking.entries import keep_masks, zero_masked_each_, zero_unkept_each_
from gmt.masking.facts import MaskFacts, Measured, Sample
from gmt.masking.grains import Units, units_of
from gmt.masking.packing import pack, unpack
from gmt.masking.parameters import Ranked, excluded_parameters, first_nonfinite, names_of, ranked
from gmt.masking.restoring import MaskedGradients, SavedState, SavedWeights, saved_weights
from gmt.masking.rule import Selection
from gmt.masking.sampling import pick
from gmt.masking.sharding import local
from gmt.masking.signals import FIRST_MOMENT, row_of
from gmt.masking.spec import MaskSpec
from gmt.masking.step_hook import StepHook
from gmt.masking.trial import FirstMoments


class NonFiniteGradientError(FloatingPointError):
    """A gradient holds NaN or Inf, so that it can't be ranked; the message names the parameter."""


class Mask:
    """A mask attached to an optimizer; made by `attach`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        spec: MaskSpec,
        *,
        seed: int,
        facts_every: int,
        facts_entries: int,
        source: Batches | None,
    ):
        self.spec = spec
        self._signal = row_of(spec.signal)
        self._ranks_whole = spec.needs_whole_parameters  # then masks are stored even if they last only one step
        self._model = model
        self._optimizer = optimizer
        self._seed = seed
        self._facts_every = facts_every
        self._sample = Sample(facts_entries)
        self._step = 0
        self._masks: dict[str, Tensor] = {}  # stored masks of kept entries, bool of shape [N]
        self._sums: dict[str, Tensor] = {}  # sums of gradients since the masks were chosen, float32 of shape [N]
        self._density = 1.0
        self._num_entries = 0
        self._num_unmasked = 0  # entries of excluded parameters that the last step trained
        self._facts: MaskFacts | None = None
        self._saved: SavedState | SavedWeights | None = None
        self._gradients = MaskedGradients()
        self._measure_again: Callable[[], Measured] | None = None
        self._is_skipped = False
        self._seconds = 0.0
        needs_activations = self._signal.needs_activations and spec.mask_ratio > 0
        self._activations = Activations(model, self._signal, source) if needs_activations else None
        self._frozen_by_mask: set[nn.Parameter] = set()  # `detach` lets these parameters train again
        self._read_parameters()
        self._hook = StepHook(optimizer, self._mask, self._finish)

    def __repr__(self) -> str:
        changed = ", ".join(
            f"{f.name}={v!r}" for f in fields(MaskSpec) if (v := getattr(self.spec, f.name)) != f.default
        )
        kept = f", density {self._density:.4g}" if self._step else ""
        return f"Mask({changed}; step {self._step}{kept})"

    def facts(self) -> MaskFacts | None:
        """Return the facts of the last step; None before the first step."""
        return self._facts

    def num_trained(self) -> int:
        """Return how many entries the last step trained: those that the mask kept, and excluded ones that train."""
        return round(self._density * self._num_entries) + self._num_unmasked

    def num_touched(self) -> int | None:
        """Return how many entries have trained; None if that is unknown.

        If the mask changes from step to step, or lets masked entries move, the number is an estimate of the entries
        that have moved, from the sample of the facts; it is unknown if no facts are measured (`facts_every`).
        """
        if not self.spec.mask_ratio or (self.spec.refresh == "once" and self.spec.mask_on == "update"):
            return self.num_trained()
        parameters = {name: p for p, name in self._names.items()}
        num = self._sample.num_touched(parameters)
        return None if num is None else num + self._num_unmasked

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: plain values and tensors; of sharded parameters, this process's part.

        Random draws follow from the step. Masks that outlive a step are packed, eight entries to a byte.
        """
        return {
            "step": self._step,
            "density": self._density,
            "num_entries": self._num_entries,
            "num_whole": self._num_unmasked,
            "masks": {n: pack(mask) for n, mask in self._masks.items()} if self.spec.outlives_a_step else {},
            "sums": dict(self._sums),
            "activations": self._activations.state_dict() if self._activations else {},
            "sample": self._sample.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state.

        Raises:
            ValueError: the state is of another model: a parameter is unknown or has another size.
        """
        weights = {name: local(p.detach()) for p, name in self._names.items()}
        for name in (*state["masks"], *state["sums"]):
            if name not in weights:
                raise ValueError(f"the mask's state holds {name}, which the model does not")
        self._step, self._density = state["step"], state["density"]
        self._num_entries = state.get("num_entries", 0)  # older states lack both numbers
        self._num_unmasked = state.get("num_whole", 0)
        self._masks = {n: unpack(m, weights[n].numel()).to(weights[n].device) for n, m in state["masks"].items()}
        self._sums = {n: s.to(weights[n].device) for n, s in state["sums"].items()}
        self._sample.load_state_dict(state["sample"])
        if self._activations:
            self._activations.load_state_dict(state["activations"])
            if self.spec.refresh == "once":
                self._activations.end_watching(self._masks.keys())

    def detach(self) -> None:
        """Remove the mask from the optimizer, whose moments stay as they are."""
        self._hook.remove()
        if self._activations:
            self._activations.remove()
        for p in self._frozen_by_mask:
            p.requires_grad_(True)
        self._masks, self._sums, self._saved, self._measure_again = {}, {}, None, None

    @torch.no_grad()
    def _mask(self) -> None:
        started = time.perf_counter()
        self._saved = self._measure_again = None  # set only if the previous step failed
        self._gradients.put_back()
        found_inf = getattr(self._optimizer, "found_inf", None)  # a GradScaler sets it if `step` itself must skip
        self._is_skipped = found_inf is not None and bool(found_inf)
        if self._is_skipped:
            return
        parameters = self._ranked()
        if self.spec.outlives_a_step:
            self._refuse_nonfinite(parameters)
        self._add_up(parameters)
        selections = self._select(parameters) if self.spec.mask_ratio else {}
        if not self.spec.outlives_a_step:  # later: no state has changed yet, and a GPU is busy with the selection
            self._refuse_nonfinite(parameters)
        if self._needs_facts():
            self._prepare_facts(parameters, lambda r: self._kept_sample(r, selections.get(r.name)))
        if self.spec.mask_ratio:
            self._apply(parameters, selections)
        self._step += 1
        self._seconds = time.perf_counter() - started

    @torch.no_grad()
    def _finish(self) -> None:
        if self._is_skipped:
            return
        started = time.perf_counter()
        self._gradients.put_back()
        if self._saved is not None:
            self._saved.restore()
            self._saved = None
        measured = self._measure_again() if self._measure_again else None
        self._measure_again = None
        self._facts = MaskFacts(
            step=self._step,
            num_entries=self._num_entries,
            density=self._density,
            seconds=self._seconds + time.perf_counter() - started,
            measured=measured,
        )

    def _read_parameters(self) -> None:
        """Read the optimizer's parameters; called when the mask is attached, and after a group was added."""
        self._names = names_of(self._model)
        self._excluded, self._frozen = excluded_parameters(self._model, self._names, self.spec)
        refusals.check_parameters(self._optimizer, self._names, self.spec, self._excluded)
        self._moment_keys = refusals.moment_keys(self._optimizer, self._names, self.spec, self._excluded)
        names = {p: self._names[p] for p in refusals.ranked_parameters(self._optimizer, self._excluded)}
        self._units: dict[nn.Parameter, Units] = {}
        if self.spec.mask_ratio and self.spec.grain != "entry":
            self._units = units_of(self._model, names, self.spec.grain)
        if self._activations:
            self._activations.watch(names)
        if self.spec.parameters != "all":  # with `all`, gradients of frozen parameters count in the clipped norm
            self._frozen_by_mask |= {p for p in self._frozen if p.requires_grad}
            for p in self._frozen_by_mask:
                p.requires_grad_(False)

    def _ranked(self) -> list[Ranked]:
        """Return the ranked parameters that have a gradient at this step; free the gradients of frozen parameters."""
        grouped = [(group, p) for group in self._optimizer.param_groups for p in group["params"]]
        if any(p not in self._names for _, p in grouped):  # a group was added
            self._read_parameters()
        grad_scale = getattr(self._optimizer, "grad_scale", None)
        scale = 1.0 if grad_scale is None else float(grad_scale)  # waits for the GPU
        needs_moments = FIRST_MOMENT in self._signal.needs and self.spec.mask_ratio > 0
        moments = FirstMoments(self._optimizer) if needs_moments else None
        parameters = []
        self._num_unmasked = self._count_unmasked()
        for group, p in grouped:
            name = self._names[p]
            if p in self._excluded:
                if p in self._frozen:
                    p.grad = None  # so that the optimizer skips the parameter, also with momentum and weight decay
            elif p.grad is not None:
                parameters.append(
                    ranked(
                        name,
                        p,
                        self._signal,
                        seed=self._seed,
                        draw=self._step,
                        scale=scale,
                        accumulated_N=self._sums.get(name),
                        first_moment=moments.before_step(group, p) if moments else None,
                    )
                )
        self._num_entries = sum(r.num_entries for r in parameters)
        return parameters

    def _count_unmasked(self) -> int:
        """Return the number of entries of excluded parameters that have a gradient and are not frozen."""
        return sum(p.numel() for p in self._excluded - self._frozen if p.grad is not None)

    def _refuse_nonfinite(self, parameters: Sequence[Ranked]) -> None:
        """Raise NonFiniteGradientError if a gradient holds NaN or Inf, unless the ranking itself detects this."""
        ranks_gradients = self.spec.mask_ratio > 0 and not self.spec.outlives_a_step
        is_detected = ranks_gradients and self._signal.shows_nonfinite_gradients
        if not is_detected and (name := first_nonfinite(parameters)):
            raise self._gradient_error(name)

    def _gradient_error(self, name: str) -> NonFiniteGradientError:
        return NonFiniteGradientError(f"the gradient of {name} holds NaN or Inf at step {self._step + 1}")

    def _add_up(self, parameters: Sequence[Ranked]) -> None:
        """Add the gradients to their sums, if the signal ranks these sums."""
        add = self._signal.add
        if add is None or not self.spec.outlives_a_step:
            return
        if self.spec.refresh == "once" and self._step:
            return
        for r in parameters:
            if r.accumulated_N is None:
                r.accumulated_N = self._sums[r.name] = torch.zeros_like(r.gradient_N, dtype=torch.float32)
            add(r.accumulated_N, r.gradient_N, r.scale)

    def _select(self, parameters: Sequence[Ranked]) -> dict[str, Selection]:
        """Rank the parameters without a mask, or all at a refresh; store the new masks if they outlive the step."""
        if self.spec.is_refreshed_at(self._step):
            self._masks = {}
        new = [r for r in parameters if r.name not in self._masks]
        if self._activations and (new or self.spec.refresh != "once"):
            self._activations.end_step(new)
        groups = groups_of(new, self.spec.scope)
        selections, of_groups = dict[str, Selection](), list[Selection]()
        try:
            if self._ranks_whole:
                self._masks |= choose_units(groups, self.spec, self._signal, self._units)
            else:
                of_groups = choose_entries(groups, self.spec, self._signal, may_zero=not self._needs_facts())
                for members, selection in zip(groups, of_groups, strict=True):
                    selections |= {r.name: selection for r in members}
        except NonFiniteScoreError as error:
            raise self._score_error(error.members) from None
        if self.spec.outlives_a_step:
            self._masks |= keep_masks([r for r in new if r.name in selections], self._signal, selections)
            for r in new:
                self._sums.pop(r.name, None)
            if self._activations and self.spec.refresh == "once":
                self._activations.end_watching(self._masks.keys())
        if of_groups and len(new) == len(parameters):
            self._density = sum(s.num_kept for s in of_groups) / max(self._num_entries, 1)
        elif new:
            self._density = density(parameters, self._masks)
        return selections

    def _score_error(self, members: Sequence[Ranked]) -> NonFiniteGradientError:
        if name := first_nonfinite(members):
            return self._gradient_error(name)
        names = ", ".join(r.name for r in members[:3])
        return NonFiniteGradientError(f"signal={self._signal.name} is NaN or Inf at step {self._step + 1}, in {names}")

    def _needs_facts(self) -> bool:
        """Return whether this step is measured, or the next one, which compares its mask with this step's."""
        return self._is_measured(self._step + 1) or self._is_measured(self._step + 2)

    def _prepare_facts(
        self, parameters: Sequence[Ranked], kept: Callable[[Ranked], Tensor], gradients: dict[str, Tensor] | None = None
    ) -> None:
        """Measure the sample before the step if this step is measured; otherwise store only the sample's mask.

        Args:
            parameters: the parameters that are ranked.
            kept: returns the mask of a parameter's sampled entries.
            gradients: the gradients of the sampled entries, if the parameters' own gradients are freed.
        """
        self._sample.set_share(parameters)
        keep_masks = {r.name: kept(r) for r in parameters}
        if self._is_measured(self._step + 1):
            self._measure_again = self._sample.measure(parameters, keep_masks, gradients=gradients)
        else:
            self._sample.remember(keep_masks)

    def _is_measured(self, step: int) -> bool:
        return self._facts_every > 0 and (step == 1 or step % self._facts_every == 0)

    def _kept_sample(self, r: Ranked, selection: Selection | None) -> Tensor:
        index = self._sample.index(r)
        if r.name in self._masks:
            return pick(self._masks[r.name], index)
        if selection is None:
            return torch.ones_like(pick(r.gradient_N, index), dtype=torch.bool)
        return selection.keeps(as_bits(r.score_at(self._signal, index)))

    def _apply(self, parameters: Sequence[Ranked], selections: dict[str, Selection]) -> None:
        """Zero masked gradients, or save the weights and moments that masked entries must keep."""
        spec, masks = self.spec, self._masks
        if spec.mask_on == "update" and spec.moments == "dense" and not masks:
            self._saved = saved_weights(parameters, self._signal, selections)
        if self._saved is None and (spec.mask_on == "update" or spec.moments == "masked"):
            masks = masks or keep_masks(parameters, self._signal, selections)
            self._saved = SavedState(
                self._optimizer, parameters, masks, weights=spec.mask_on == "update", moment_keys=self._moment_keys
            )
        if spec.mask_on == "gradient":
            zero_masked_each_([r for r in parameters if r.name not in masks], self._signal, selections)
            zero_unkept_each_([(r.gradient_N, masks[r.name]) for r in parameters if r.name in masks])
            for r in parameters:
                self._gradients.write(r)

"""The mask on a torch optimizer: it masks once, at the real optimizer step, after accumulation and clipping.

Before a step (gmt/masking/step_hook.py) it ranks and masks the gradient, or puts aside what must not move; after the
step it puts that back.
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
from gmt.masking.putting_back import Held, HeldWeights, MaskedGradients, held_weights
from gmt.masking.rule import Selection
from gmt.masking.sampling import pick
from gmt.masking.sharding import local
from gmt.masking.signals import FIRST_MOMENT, row_of
from gmt.masking.spec import MaskSpec
from gmt.masking.step_hook import StepHook
from gmt.masking.trial import FirstMoments


class NonFiniteGradientError(FloatingPointError):
    """A gradient holds NaN or Inf, so that it can't be ranked; names the parameter."""


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
        self._is_chosen_whole = spec.needs_whole_parameters  # and so are its masks, even where they last one step
        self._model = model
        self._optimizer = optimizer
        self._seed = seed
        self._facts_every = facts_every
        self._sample = Sample(facts_entries)
        self._step = 0
        self._masks: dict[str, Tensor] = {}  # kept entries of masks that outlive a step, bool of shape [N]
        self._sums: dict[str, Tensor] = {}  # of gradients since the masks were made, float32 of shape [N]
        self._density = 1.0
        self._num_entries = 0
        self._num_whole = 0  # entries of parameters that train without a mask, with a gradient at the last step
        self._facts: MaskFacts | None = None
        self._held: Held | HeldWeights | None = None
        self._gradients = MaskedGradients()
        self._look_again: Callable[[], Measured] | None = None
        self._is_skipped = False
        self._seconds = 0.0
        needs_activations = self._signal.needs_activations and spec.mask_ratio > 0
        self._activations = Activations(model, self._signal, source) if needs_activations else None
        self._no_gradient: set[nn.Parameter] = set()  # frozen parameters that detach lets train again
        self._learn_parameters()
        self._hook = StepHook(optimizer, self._mask, self._finish)

    def __repr__(self) -> str:
        changed = ", ".join(
            f"{f.name}={v!r}" for f in fields(MaskSpec) if (v := getattr(self.spec, f.name)) != f.default
        )
        kept = f", density {self._density:.4g}" if self._step else ""
        return f"Mask({changed}; step {self._step}{kept})"

    def facts(self) -> MaskFacts | None:
        """What happened at the last step, or None before the first."""
        return self._facts

    def num_trained(self) -> int:
        """Return how many entries the last step trained: those that the mask kept, and excluded ones that are dense."""
        return round(self._density * self._num_entries) + self._num_whole

    def num_touched(self) -> int | None:
        """Return how many entries have trained; None if that is unknown.

        Where the masked entries change from step to step, or move though they are masked, it is the number of entries
        that have moved, by the sample of the facts; unknown where none were taken (`facts_every`).
        """
        if not self.spec.mask_ratio or (self.spec.refresh == "once" and self.spec.mask_on == "update"):
            return self.num_trained()
        parameters = {name: p for p, name in self._names.items()}
        num = self._sample.num_touched(parameters)
        return None if num is None else num + self._num_whole

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: plain values and tensors; those of sharded parameters are this process's part.

        Random draws derive from the step. Masks that outlive a step are packed, eight entries to a byte.
        """
        return {
            "step": self._step,
            "density": self._density,
            "num_entries": self._num_entries,
            "num_whole": self._num_whole,
            "masks": {n: pack(mask) for n, mask in self._masks.items()} if self.spec.outlives_a_step else {},
            "sums": dict(self._sums),
            "activations": self._activations.state_dict() if self._activations else {},
            "sample": self._sample.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint's state.

        Raises:
            ValueError: the state is of another model: a parameter is unknown or has another size.
        """
        here = {name: local(p.detach()) for p, name in self._names.items()}
        for name in (*state["masks"], *state["sums"]):
            if name not in here:
                raise ValueError(f"the mask's state holds {name}, which the model does not")
        self._step, self._density = state["step"], state["density"]
        self._num_entries = state.get("num_entries", 0)  # states from before it was counted lack both
        self._num_whole = state.get("num_whole", 0)
        self._masks = {n: unpack(m, here[n].numel()).to(here[n].device) for n, m in state["masks"].items()}
        self._sums = {n: s.to(here[n].device) for n, s in state["sums"].items()}
        self._sample.load_state_dict(state["sample"])
        if self._activations:
            self._activations.load_state_dict(state["activations"])
            if self.spec.refresh == "once":
                self._activations.end_watching(self._masks.keys())

    def detach(self) -> None:
        """Takes the mask off the optimizer; what it put into the moments of past steps stays."""
        self._hook.remove()
        if self._activations:
            self._activations.remove()
        for p in self._no_gradient:
            p.requires_grad_(True)
        self._masks, self._sums, self._held, self._look_again = {}, {}, None, None

    @torch.no_grad()
    def _mask(self) -> None:
        started = time.perf_counter()
        self._held = self._look_again = None  # there if the step before broke off
        self._gradients.put_back()
        found_inf = getattr(self._optimizer, "found_inf", None)  # of a GradScaler, for optimizers that skip themselves
        self._is_skipped = found_inf is not None and bool(found_inf)
        if self._is_skipped:
            return
        every = self._ranked()
        if self.spec.outlives_a_step:
            self._refuse_nonfinite(every)
        self._add_up(every)
        selections = self._select(every) if self.spec.mask_ratio else {}
        if not self.spec.outlives_a_step:  # nothing was kept yet, and a GPU has been told what to do meanwhile
            self._refuse_nonfinite(every)
        if self._needs_facts():
            self._prepare_facts(every, lambda r: self._kept_sample(r, selections.get(r.name)))
        if self.spec.mask_ratio:
            self._apply(every, selections)
        self._step += 1
        self._seconds = time.perf_counter() - started

    @torch.no_grad()
    def _finish(self) -> None:
        if self._is_skipped:
            return
        started = time.perf_counter()
        self._gradients.put_back()
        if self._held is not None:
            self._held.put_back()
            self._held = None
        measured = self._look_again() if self._look_again else None
        self._look_again = None
        self._facts = MaskFacts(
            step=self._step,
            num_entries=self._num_entries,
            density=self._density,
            seconds=self._seconds + time.perf_counter() - started,
            measured=measured,
        )

    def _learn_parameters(self) -> None:
        """Looks at what the optimizer holds: when the mask is attached, and when a group was added."""
        self._names = names_of(self._model)
        self._excluded, self._frozen = excluded_parameters(self._model, self._names, self.spec)
        refusals.check_parameters(self._optimizer, self._names, self.spec, self._excluded)
        self._moment_keys = refusals.moment_keys(self._optimizer, self._names, self.spec, self._excluded)
        chosen = {p: self._names[p] for p in refusals.ranked_parameters(self._optimizer, self._excluded)}
        self._units: dict[nn.Parameter, Units] = {}
        if self.spec.mask_ratio and self.spec.grain != "entry":
            self._units = units_of(self._model, chosen, self.spec.grain)
        if self._activations:
            self._activations.watch(chosen)
        if self.spec.parameters != "all":  # of `all`, gradients of frozen parameters count in the norm that clips
            self._no_gradient |= {p for p in self._frozen if p.requires_grad}
            for p in self._no_gradient:
                p.requires_grad_(False)

    def _ranked(self) -> list[Ranked]:
        """The parameters with a gradient that are ranked at this step; takes the frozen ones from the optimizer."""
        groups = [(group, p) for group in self._optimizer.param_groups for p in group["params"]]
        if any(p not in self._names for _, p in groups):  # a group was added
            self._learn_parameters()
        grad_scale = getattr(self._optimizer, "grad_scale", None)
        scale = 1.0 if grad_scale is None else float(grad_scale)  # of a GPU, which this waits for
        needs_moments = FIRST_MOMENT in self._signal.needs and self.spec.mask_ratio > 0
        moments = FirstMoments(self._optimizer) if needs_moments else None
        found = []
        self._num_whole = self._trained_whole()
        for group, p in groups:
            name = self._names[p]
            if p in self._excluded:
                if p in self._frozen:
                    p.grad = None  # the optimizer passes it by, momentum, weight decay and all
            elif p.grad is not None:
                found.append(
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
        self._num_entries = sum(r.num_entries for r in found)
        return found

    def _trained_whole(self) -> int:
        """Return the number of entries of excluded parameters that have a gradient and are not frozen."""
        return sum(p.numel() for p in self._excluded - self._frozen if p.grad is not None)

    def _refuse_nonfinite(self, every: Sequence[Ranked]) -> None:
        """Looks for NaN and Inf, where the ranking itself will not come across them."""
        is_made = self.spec.mask_ratio > 0 and not self.spec.outlives_a_step
        is_seen = is_made and self._signal.shows_nonfinite_gradients
        if not is_seen and (bad := first_nonfinite(every)):
            raise self._refusal(bad)

    def _refusal(self, name: str) -> NonFiniteGradientError:
        return NonFiniteGradientError(f"the gradient of {name} holds NaN or Inf at step {self._step + 1}")

    def _add_up(self, every: Sequence[Ranked]) -> None:
        """Adds the gradients to their sums, if it is these that are ranked."""
        add = self._signal.add
        if add is None or not self.spec.outlives_a_step:
            return
        if self.spec.refresh == "once" and self._step:
            return
        for r in every:
            if r.accumulated_N is None:
                r.accumulated_N = self._sums[r.name] = torch.zeros_like(r.gradient_N, dtype=torch.float32)
            add(r.accumulated_N, r.gradient_N, r.scale)

    def _select(self, every: Sequence[Ranked]) -> dict[str, Selection]:
        """Ranks what has no mask, or everything if it is time; puts new masks that outlive the step into place."""
        if self.spec.is_refreshed_at(self._step):
            self._masks = {}
        new = [r for r in every if r.name not in self._masks]
        if self._activations and (new or self.spec.refresh != "once"):
            self._activations.end_step(new)
        groups = groups_of(new, self.spec.scope)
        selections, found = dict[str, Selection](), list[Selection]()
        try:
            if self._is_chosen_whole:
                self._masks |= choose_units(groups, self.spec, self._signal, self._units)
            else:
                found = choose_entries(groups, self.spec, self._signal, may_zero=not self._needs_facts())
                for members, selection in zip(groups, found, strict=True):
                    selections |= {r.name: selection for r in members}
        except NonFiniteScoreError as error:
            raise self._refusal_of_scores(error.members) from None
        if self.spec.outlives_a_step:
            self._masks |= keep_masks([r for r in new if r.name in selections], self._signal, selections)
            for r in new:
                self._sums.pop(r.name, None)
            if self._activations and self.spec.refresh == "once":
                self._activations.end_watching(self._masks.keys())
        if found and len(new) == len(every):
            self._density = sum(s.num_kept for s in found) / max(self._num_entries, 1)
        elif new:
            self._density = density(every, self._masks)
        return selections

    def _refusal_of_scores(self, members: Sequence[Ranked]) -> NonFiniteGradientError:
        if bad := first_nonfinite(members):
            return self._refusal(bad)
        names = ", ".join(r.name for r in members[:3])
        return NonFiniteGradientError(f"{self.spec.signal} is NaN or Inf at step {self._step + 1}, in {names}")

    def _needs_facts(self) -> bool:
        """Whether this step is one to look at, or the next one is, which compares its mask to this step's."""
        return self._is_looked_at(self._step + 1) or self._is_looked_at(self._step + 2)

    def _prepare_facts(
        self, every: Sequence[Ranked], kept: Callable[[Ranked], Tensor], gradients: dict[str, Tensor] | None = None
    ) -> None:
        """Looks at the sample if this step is one to look at, else at its mask alone.

        Args:
            every: the parameters that are ranked.
            kept: returns which entries of a parameter's sample stay.
            gradients: of the samples, where the parameters' own are gone.
        """
        self._sample.choose(every)
        keeps = {r.name: kept(r) for r in every}
        if self._is_looked_at(self._step + 1):
            self._look_again = self._sample.look(every, keeps, gradients=gradients)
        else:
            self._sample.remember(keeps)

    def _is_looked_at(self, step: int) -> bool:
        return self._facts_every > 0 and (step == 1 or step % self._facts_every == 0)

    def _kept_sample(self, r: Ranked, selection: Selection | None) -> Tensor:
        index = self._sample.index(r)
        if r.name in self._masks:
            return pick(self._masks[r.name], index)
        if selection is None:
            return torch.ones_like(pick(r.gradient_N, index), dtype=torch.bool)
        return selection.keeps(as_bits(r.score_at(self._signal, index)))

    def _apply(self, every: Sequence[Ranked], selections: dict[str, Selection]) -> None:
        """Zeroes masked gradients, or puts aside what masked entries must keep."""
        spec, masks = self.spec, self._masks
        if spec.mask_on == "update" and spec.moments == "dense" and not masks:
            self._held = held_weights(every, self._signal, selections)
        if self._held is None and (spec.mask_on == "update" or spec.moments == "masked"):
            masks = masks or keep_masks(every, self._signal, selections)
            self._held = Held(
                self._optimizer, every, masks, weights=spec.mask_on == "update", moment_keys=self._moment_keys
            )
        if spec.mask_on == "gradient":
            zero_masked_each_([r for r in every if r.name not in masks], self._signal, selections)
            zero_unkept_each_([(r.gradient_N, masks[r.name]) for r in every if r.name in masks])
            for r in every:
                self._gradients.write(r)

"""AdamW that stores moments and gradients only for the kept entries of its parameters.

A parameter with a support stores its first and second moment as vectors of its K kept entries, and the support as bits
or indices (gmt/masking/support.py): in float32 at most 8 K + N / 8 bytes, and K more if each entry has an age of its
own. A hook gathers the gradient of the kept entries as soon as autograd has accumulated it, adds it to the vector of
the step's earlier micro-batches, and frees the dense gradient before that of the next parameter is computed. A
parameter without a support is trained whole, as by torch's AdamW.

Shape suffixes: N entries of a parameter, flattened; K of them that are kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gmt.masking.parameters import flat
from gmt.masking.sharding import is_sharded
from gmt.masking.spec import AGES
from gmt.masking.support import Support, stored, support_of
from gmt.optimizers.cohorts import ages, forget_ages, set_ages
from gmt.optimizers.packed_update import Stepped, update

_ENTRIES_AT_ONCE = 1 << 26  # entries that step together on a GPU, which bounds the memory of their copied weights
_COPIED = ("_age", "_supports", "clipping")  # attributes that are copied together with torch's own state
_NOT_ROUNDED = ("support", "age", "cohort")  # states that torch's load_state_dict would cast to the parameter's dtype


class Chooser(Protocol):
    """A mask, which chooses the supports."""

    def arrived(self, p: nn.Parameter) -> bool:
        """Note that the gradient of a micro-batch was added to `p.grad`; return whether the support of `p` is final for
        this step.

        The call may set the support, by `PackedAdamW.keep`. Until the support is final, the gradient stays dense;
        `complete` then sets the support.
        """
        ...

    def complete(self) -> None:
        """Set the supports that depend on all gradients of a step; called when these have arrived."""
        ...


class PackedAdamW(Optimizer):
    """AdamW with moments of kept entries only; these entries step as with torch's fused AdamW, bit for bit.

    Args:
        params: groups of parameters with `lr`, `weight_decay`, `betas` and `eps`.
        age: the number of steps in the bias correction of an entry that joined the support later: `global` counts the
            steps of its parameter, `own` those since the entry joined.
    """

    _step_supports_amp_scaling = True  # so that a GradScaler calls `step`, which refuses it

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        age: str = "global",
    ):
        if age not in AGES:
            raise ValueError(f"age must be one of {', '.join(AGES)}, got {age!r}")
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "fused": True}
        super().__init__(params, defaults)
        self._age = age
        self._chooser: Chooser | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._supports: dict[nn.Parameter, Support] = {}
        self._gradients: dict[nn.Parameter, Tensor] = {}  # of kept entries, added up over micro-batches
        self._clipping: Tensor | None = None  # for the next step
        self.clipping: Tensor | None = None
        """The factor by which the last step's gradients were clipped; None if they were not clipped."""

    def follow(self, chooser: Chooser) -> None:
        """Let a mask choose the supports, and gather gradients as they arrive."""
        self.unfollow()
        self._chooser = chooser
        register = torch.Tensor.register_post_accumulate_grad_hook
        trained = [p for p in self._parameters() if p.requires_grad]
        # the garbage collector does not see the hooks that torch holds
        gather_one = weakref.WeakMethod(self._gather_one)

        def gather(p: nn.Parameter) -> None:
            if (method := gather_one()) is not None:
                method(p)

        self._handles = [register(p, gather) for p in trained]  # type: ignore[no-untyped-call]

    def unfollow(self) -> None:
        """Gather gradients only at the step, by the present supports."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._chooser = [], None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy or a pickle, without the mask that chooses supports and without its hooks.

        Raises:
            ValueError: gradients of a step have been gathered, but the step has not been taken.
        """
        if self._gradients:
            raise ValueError(
                f"PackedAdamW can be copied between steps only, and holds gradients of {len(self._gradients)} "
                "parameters: call step or zero_grad before"
            )
        return {**super().__getstate__(), **{name: vars(self)[name] for name in _COPIED}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state of a copy, which starts without a mask; torch's load_state_dict calls this too."""
        super().__setstate__(state)
        for name, value in (("_chooser", None), ("_handles", []), ("_gradients", {}), ("_clipping", None)):
            vars(self).setdefault(name, value)

    def support(self, p: nn.Parameter) -> Support | None:
        """Return the kept entries of a parameter; None if it is trained whole."""
        return self._supports.get(p)

    @torch.no_grad()
    def keep(self, p: nn.Parameter, keep_N: Tensor) -> None:
        """Set the kept entries of a parameter, before its gradient of this step is gathered.

        Entries that were kept before keep their moments; the moments of the others begin at zero.

        Args:
            p: a parameter of a group, whole on this process.
            keep_N: bool of shape [N].

        Raises:
            ValueError: the parameter is sharded.
        """
        if is_sharded(p):
            raise ValueError("moments=packed needs parameters that are whole on each process, not shards of FSDP2")
        assert p not in self._gradients, "a support can't change after its parameter's gradient was gathered"
        new, state = support_of(keep_N), self.state[p]
        if "exp_avg" in state:
            if self._age == "own" and p in self._supports:
                self._carry_ages(p, new)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = new.gather(self._whole(p, state[key]))
        state["support"] = new.stored
        self._supports[p] = new

    @torch.no_grad()
    def begin(self, p: nn.Parameter, index_J: Tensor, *, first_J: Tensor, second_J: Tensor, age: int) -> None:
        """Give kept entries the state of entries that have taken some steps; needs `age` to be `own`.

        Args:
            p: a parameter with a support that has stepped.
            index_J: ascending indices of kept entries, int64.
            first_J, second_J: the means of their gradients and of the squares: the values of the moments after the
                bias correction.
            age: the number of steps.
        """
        assert self._age == "own"
        state, support = self.state[p], self._supports[p]
        at_J = torch.searchsorted(support.mask().nonzero().flatten(), index_J)
        (group,) = [group for group in self.param_groups if any(q is p for q in group["params"])]
        for key, values_J, beta in zip(("exp_avg", "exp_avg_sq"), (first_J, second_J), group["betas"], strict=True):
            state[key][at_J] = (values_J * (1 - beta**age)).to(state[key].dtype)
        age_K = self._ages(p)
        age_K[at_J] = age
        set_ages(state, age_K)

    def gathered(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each parameter with a gradient in this step, and the gradient: of its kept entries, shape [K], or of
        all entries."""
        for p in self._parameters():
            if p in self._gradients:
                yield p, self._gradients[p]
            elif p.grad is not None:
                yield p, p.grad

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gradients of this step so that the norm over all kept entries is at most `max_norm`, in place.

        torch.nn.utils.clip_grad_norm_ does not see these gradients. Call this after all micro-batches of the step.

        Returns:
            The norm before clipping; it includes parameters without a support.
        """
        self._complete()
        gradients = [gradient for _, gradient in self.gathered()]
        norm = get_total_norm(gradients)
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)  # as torch does it
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))
        self._clipping = scale if self._clipping is None else self._clipping * scale
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step, and free the gradients of kept entries.

        Raises:
            ValueError: a GradScaler calls this method.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            raise ValueError(
                "PackedAdamW works without a GradScaler, since it gathers gradients before they could be unscaled: "
                "train in float32 or bfloat16"
            )
        self._complete()
        self.clipping, self._clipping = self._clipping, None
        for group in self.param_groups:
            for batch in _in_batches(group["params"], self._num_stepped):
                self._step_batch(batch, group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free the gradients."""
        self._gradients.clear()
        self._clipping = None
        super().zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict, with supports and ages unrounded."""
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, p in zip(saved, self._parameters(), strict=True):
            for name in _NOT_ROUNDED:
                if (value := state_dict["state"].get(key, {}).get(name)) is not None:
                    self.state[p][name] = value.to(p.device, copy=True)
            if "age" in self.state.get(p, {}) and "cohort" not in self.state[p]:  # older: an age for each entry
                set_ages(self.state[p], self.state[p]["age"])
        states = {p: self.state[p] for p in self._parameters() if "support" in self.state.get(p, {})}
        self._supports = {p: stored(state["support"], p.numel()) for p, state in states.items()}

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.param_groups:
            yield from group["params"]

    @torch.no_grad()
    def _gather_one(self, p: nn.Parameter) -> None:
        assert self._chooser is not None
        if self._chooser.arrived(p):
            self._gather(p)

    def _complete(self) -> None:
        if self._chooser is not None:
            self._chooser.complete()
        for p in self._parameters():
            self._gather(p)

    def _gather(self, p: nn.Parameter) -> None:
        """Add the kept entries of a dense gradient, if there is one, to the gathered gradient, and free the former."""
        if p.grad is None or p not in self._supports:
            return
        gradient_K = self._supports[p].gather(flat(p.grad))
        p.grad = None
        if p in self._gradients:
            self._gradients[p] += gradient_K
        else:
            self._gradients[p] = gradient_K

    def _num_stepped(self, p: nn.Parameter) -> int | None:
        """Return how many of a parameter's entries step; None if it has no gradient."""
        if p in self._gradients:
            return len(self._gradients[p])
        return None if p.grad is None else p.numel()

    def _step_batch(self, parameters: Sequence[nn.Parameter], group: dict[str, Any]) -> None:
        batch = []
        for p in parameters:
            support = self._supports[p] if p in self._gradients else None
            weight = p.detach() if support is None else support.gather(flat(p.detach()))
            gradient = p.grad if support is None else self._gradients.pop(p)
            assert gradient is not None
            batch.append(Stepped(weight=weight, gradient=gradient, state=self._state_of(p, weight), support=support))
        update(batch, group)
        for p, stepped in zip(parameters, batch, strict=True):
            if stepped.support is None:
                continue
            weight_N = flat(p.detach())
            stepped.support.scatter_(weight_N, stepped.weight)
            if not p.is_contiguous():  # then `weight_N` is a copy
                p.copy_(weight_N.view(p.shape))

    def _state_of(self, p: nn.Parameter, like: Tensor) -> dict[str, Any]:
        """Return a parameter's state; create it at the first step."""
        state: dict[str, Any] = self.state[p]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(like, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(like, memory_format=torch.preserve_format)
        return state

    def _whole(self, p: nn.Parameter, values: Tensor) -> Tensor:
        """Return a state as a vector of all entries, of shape [N], with zeros for entries outside the support."""
        if p not in self._supports:
            return flat(values)
        whole_N = values.new_zeros(p.numel())
        self._supports[p].scatter_(whole_N, values)
        return whole_N

    def _carry_ages(self, p: nn.Parameter, new: Support) -> None:
        """Carry ages over to a new support, where new entries have age 0; drop ages that all equal the parameter's
        number of steps."""
        age_K = new.gather(self._whole(p, self._ages(p)))
        if bool((age_K == int(self.state[p]["step"])).all()):
            forget_ages(self.state[p])
        else:
            set_ages(self.state[p], age_K)

    def _ages(self, p: nn.Parameter) -> Tensor:
        """Return the number of steps that each kept entry has taken, int32 of shape [K]."""
        state = self.state[p]
        if (age_K := ages(state)) is not None:
            return age_K
        return torch.full((self._supports[p].num_kept,), int(state["step"]), dtype=torch.int32, device=p.device)


def _in_batches(
    parameters: Sequence[nn.Parameter], num_stepped: Callable[[nn.Parameter], int | None]
) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters that step: one by one on the CPU, in batches on a GPU, where each call costs time."""
    batch: list[nn.Parameter] = []
    size = 0
    for p in parameters:
        if (num := num_stepped(p)) is None:
            continue
        is_full = size + num > _ENTRIES_AT_ONCE or p.device.type == "cpu"
        if batch and (is_full or p.device != batch[0].device):
            yield batch
            batch, size = [], 0
        batch.append(p)
        size += num
    if batch:
        yield batch

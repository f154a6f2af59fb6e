"""Learns how an optimizer changes its state: another of the same class and settings steps on a small parameter.

How a moment is made, and which state belongs to single entries, depends on the optimizer and each of its switches
(weight decay, `maximize`, `dampening`, ...). So it is read off the optimizer's own steps instead of being written down
here a second time.

Shape suffixes: P entries of the small parameter.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_SIZES = (7, 5, 3, 2)  # unlike each other and above 1, so that no factor of a state has the parameter's shape
_FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
_TOLERANCE = 1e-4  # far above float32's rounding of entries near 1, far below what another formula is off


@dataclass(frozen=True)
class MomentRule:
    """A first moment after a step: decay * moment + gain * gradient + pull * weight."""

    decay: float
    gain: float
    pull: float


@dataclass(frozen=True)
class FirstMoment:
    """How an optimizer makes a first moment: its key in the state, at a parameter's first step, and later."""

    key: str
    first: MomentRule
    later: MomentRule


class Trial:
    """An optimizer of the same class and settings over one small float32 parameter."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], like: nn.Parameter, **settings: Any):
        """Makes it.

        Args:
            optimizer: the one to learn of; it is left alone.
            group: its parameter group whose settings are taken.
            like: a parameter of the group, for the device and the number of dimensions (at least one).
            settings: what is set otherwise, where the group has such a setting.

        Raises:
            ValueError: the class can't be made from a parameter and these settings.
        """
        kind = type(optimizer)
        self._name = kind.__name__
        shape = _SIZES[: max(like.ndim, 1)] + _SIZES[-1:] * (like.ndim - len(_SIZES))
        device = "cpu" if like.is_meta else like.device  # nothing can be read on meta
        self.parameter = nn.Parameter(torch.ones(shape, dtype=torch.float32, device=device))
        taken = {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "param_names")}
        taken |= {k: v for k, v in settings.items() if k in taken}
        with self._code_of_others():
            known = inspect.signature(kind).parameters
            given = {k: v for k, v in (optimizer.defaults | taken).items() if k in known}
            group_settings = {k: v for k, v in taken.items() if k != "initial_lr"}  # which a scheduler adds later
            self.optimizer = kind([{**group_settings, "params": [self.parameter]}], **given)
        self.optimizer.param_groups[0].update(taken)

    def step(self, weight_P: Tensor, gradient_P: Tensor) -> tuple[frozenset[str], dict[str, Any]]:
        """Return what the state held before one more step, by key, and the state after it.

        Args:
            weight_P, gradient_P: of the parameter at this step.

        Raises:
            ValueError: the step fails.
        """
        p = self.parameter
        with self._code_of_others():
            with torch.no_grad():
                p.copy_(weight_P.view(p.shape))
                p.grad = gradient_P.view(p.shape).clone()
            if callable(train := getattr(self.optimizer, "train", None)):
                train()  # schedule-free ones step in training only
            begin_state(self.optimizer)
            begun = frozenset(self.optimizer.state[p])
            self.optimizer.step()
        return begun, self.optimizer.state[p]

    @contextmanager
    def _code_of_others(self) -> Iterator[None]:
        """Say of an error in an optimizer's code that the trial failed; a class of someone else may raise anything."""
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's fault, and not the optimizer's
        except Exception as error:  # third-party code, where Triton's errors have no narrower base class
            why = next(iter(str(error).splitlines()), "")
            raise ValueError(
                f"a trial step of {self._name} on a parameter of its own must show how it keeps its state, "
                f"got {type(error).__name__}: {why}"
            ) from error


def first_moment(optimizer: torch.optim.Optimizer, group: dict[str, Any], like: nn.Parameter) -> FirstMoment:
    """Return how the optimizer makes its first moment with a group's settings as they are now.

    Raises:
        ValueError: it keeps no running sum of its gradients, or a trial fails.
    """
    trial = Trial(optimizer, group, like)
    moment_P, gradient_P, weight_P = _probes(trial.parameter)
    _, state = trial.step(weight_P, gradient_P)
    for key in _FIRST_MOMENTS:
        after = state.get(key)
        if not isinstance(after, Tensor) or after.shape != trial.parameter.shape:
            continue
        first = _rule(after, torch.zeros_like(moment_P), gradient_P, weight_P)
        with torch.no_grad():
            after.copy_(moment_P.view(after.shape))
        _, state = trial.step(weight_P, gradient_P)
        later = _rule(state[key], moment_P, gradient_P, weight_P)
        if first and later:
            return FirstMoment(key, first, later)
    kind = type(optimizer).__name__
    raise ValueError(
        f"signal=first_moment needs an optimizer that keeps a running sum of its gradients, {kind} keeps none"
    )


class FirstMoments:
    """Looks up each parameter's first moment and its group's update rule for one step."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._of_groups: dict[int, FirstMoment] = {}  # settings change from step to step, and with them the rules

    def before_step(self, group: dict[str, Any], parameter: nn.Parameter) -> tuple[Tensor | None, MomentRule]:
        """Return the moment of a parameter of the group, if there is one yet, and the rule of its next step."""
        if id(group) not in self._of_groups:
            self._of_groups[id(group)] = first_moment(self._optimizer, group, parameter)
        made = self._of_groups[id(group)]
        moment = self._optimizer.state.get(parameter, {}).get(made.key)
        return (None, made.first) if moment is None else (moment, made.later)


def _probes(p: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
    """Moments, gradients and weights: three entries that have but one of these, and others that have all."""
    at_P = torch.arange(p.numel(), dtype=torch.float32, device=p.device)
    probes = [torch.sin(at_P * step + 1.0) for step in (0.7, 1.3, 2.1)]  # irregular, and no random state is touched
    for i, probe_P in enumerate(probes):
        probe_P[:3] = at_P[:3] == i
    return probes[0], probes[1], probes[2]


def _rule(after: Tensor, moment_P: Tensor, gradient_P: Tensor, weight_P: Tensor) -> MomentRule | None:
    after_P = after.detach().float().reshape(-1)
    decay, gain, pull = after_P[:3].tolist()
    if not torch.allclose(
        after_P, decay * moment_P + gain * gradient_P + pull * weight_P, rtol=_TOLERANCE, atol=_TOLERANCE
    ):
        return None
    return MomentRule(decay, gain, pull)


def moment_keys(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], like: nn.Parameter, name: str
) -> frozenset[str]:
    """Return the keys of the state that an optimizer keeps of each entry of a parameter; `name` is the parameter's.

    Raises:
        ValueError: it keeps other state than of whole parameters or single entries, state that it makes in its step
            does not begin at zero, or a trial fails.
    """
    kind = type(optimizer).__name__
    trial = Trial(optimizer, group, like, weight_decay=0.0)
    weight_P = _probes(trial.parameter)[2]
    begun, state = trial.step(weight_P, torch.zeros_like(weight_P))
    keys = frozenset(key for key, _ in entry_states(state, trial.parameter.shape, kind, name))
    for key in sorted(keys - begun):
        if bool(state[key].any()):
            raise ValueError(
                "moments=masked needs moments that begin at zero, "
                f"and after a first step with a gradient of zero {kind}'s {key} is not zero"
            )
    return keys


def entry_states(
    state: dict[str, Any], shape: torch.Size, kind: str, name: str, keys: frozenset[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Gives what a parameter's state holds of each entry: (key, tensor of the parameter's shape).

    Args:
        state: of one parameter.
        shape: the parameter's.
        kind, name: the optimizer's class and the parameter's name, for the error.
        keys: those that belong to single entries, if they are known; else all that have the shape.

    Raises:
        ValueError: there is state of other than whole parameters or single entries.
    """
    for key, value in state.items():
        if value is None or isinstance(value, bool | int | float | str):
            continue
        if isinstance(value, Tensor):
            is_by_entry = value.shape == shape and value.is_floating_point() and not _is_packed(value)
            if is_by_entry and (keys is None or key in keys):
                yield key, value
                continue
            if value.numel() == 1:
                continue
        raise ValueError(
            f"moments=masked needs every moment from the first step on, shaped like its parameter, "
            f"which {kind}'s {key} of {name} is not"
        )


def _is_packed(value: Tensor) -> bool:
    """Return whether a tensor subclass only looks like floats, as the states of some 8-bit optimizers do."""
    return type(value) not in (Tensor, nn.Parameter) and type(value).__name__ != "DTensor"


def begin_state(optimizer: torch.optim.Optimizer) -> None:
    """Lets one of torch's optimizers begin the state of parameters that have none, as its step is about to do."""
    begin = getattr(optimizer, "_init_group", None)
    if begin is None or not begin.__module__.startswith("torch.optim."):
        return
    num_lists = len(inspect.signature(begin).parameters) - 1  # that it fills for the step
    for group in optimizer.param_groups:
        if any(p.grad is not None and not optimizer.state.get(p) for p in group["params"]):
            begin(group, *([] for _ in range(num_lists)))

"""Finds out how an optimizer updates its state, by trial steps of the same class and settings on a small parameter.

The formula of a moment, and the state that belongs to single entries, depend on the optimizer and on each of its
settings (weight decay, `maximize`, `dampening`, ...). Trial steps show both, so that no formula is repeated here.

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

_SIZES = (7, 5, 3, 2)  # different and above 1, so that a factored state never has the parameter's shape
_FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
_TOLERANCE = 1e-4  # far above float32's rounding of entries near 1, far below the error of a wrong formula


@dataclass(frozen=True)
class MomentRule:
    """The formula of a first moment after a step: decay * moment + gain * gradient + pull * weight."""

    decay: float
    gain: float
    pull: float


@dataclass(frozen=True)
class FirstMoment:
    """The first moment of an optimizer.

    Args:
        key: its key in a parameter's state.
        first: its formula at a parameter's first step.
        later: its formula at all later steps.
    """

    key: str
    first: MomentRule
    later: MomentRule


class Trial:
    """An optimizer of the same class and settings over one small float32 parameter."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], like: nn.Parameter, **settings: Any):
        """Make the optimizer of the trial.

        Args:
            optimizer: the optimizer whose class and settings are tried; it is not changed.
            group: one of its parameter groups, which gives the settings.
            like: a parameter of the group, which gives the device and the number of dimensions (at least one).
            settings: values that replace settings of the group; settings that the group lacks are ignored.

        Raises:
            ValueError: the class can't be instantiated with a parameter and these settings.
        """
        kind = type(optimizer)
        self._name = kind.__name__
        shape = _SIZES[: max(like.ndim, 1)] + _SIZES[-1:] * (like.ndim - len(_SIZES))
        device = "cpu" if like.is_meta else like.device  # tensors on meta have no values to read
        self.parameter = nn.Parameter(torch.ones(shape, dtype=torch.float32, device=device))
        values = {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "param_names")}
        values |= {k: v for k, v in settings.items() if k in values}
        with self._code_of_others():
            accepted = inspect.signature(kind).parameters
            arguments = {k: v for k, v in (optimizer.defaults | values).items() if k in accepted}
            group_settings = {k: v for k, v in values.items() if k != "initial_lr"}  # only a scheduler sets initial_lr
            self.optimizer = kind([{**group_settings, "params": [self.parameter]}], **arguments)
        self.optimizer.param_groups[0].update(values)

    def step(self, weight_P: Tensor, gradient_P: Tensor) -> tuple[frozenset[str], dict[str, Any]]:
        """Take one more step; return the keys of the state before it, and the state after it.

        Args:
            weight_P, gradient_P: the weights and the gradient of the parameter at this step.

        Raises:
            ValueError: the step fails.
        """
        p = self.parameter
        with self._code_of_others():
            with torch.no_grad():
                p.copy_(weight_P.view(p.shape))
                p.grad = gradient_P.view(p.shape).clone()
            if callable(train := getattr(self.optimizer, "train", None)):
                train()  # schedule-free optimizers step only in training mode
            begin_state(self.optimizer)
            keys_before = frozenset(self.optimizer.state[p])
            self.optimizer.step()
        return keys_before, self.optimizer.state[p]

    @contextmanager
    def _code_of_others(self) -> Iterator[None]:
        """Turn any error of the optimizer's code into a ValueError that says that the trial failed."""
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # a fault of the device and not of the optimizer
        except Exception as error:  # third-party code may raise any class; Triton's errors have no narrower base class
            first_line = next(iter(str(error).splitlines()), "")
            raise ValueError(
                f"a trial step of {self._name} on a small parameter must succeed, since it shows how the state is "
                f"updated, got {type(error).__name__}: {first_line}"
            ) from error


def first_moment(optimizer: torch.optim.Optimizer, group: dict[str, Any], like: nn.Parameter) -> FirstMoment:
    """Return an optimizer's first moment, with its formulas under a group's present settings.

    Raises:
        ValueError: the optimizer keeps no running sum of its gradients, or a trial fails.
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
    """Looks up each parameter's first moment and its group's formula for one step."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._of_groups: dict[int, FirstMoment] = {}  # for one step only: formulas change with a group's settings

    def before_step(self, group: dict[str, Any], parameter: nn.Parameter) -> tuple[Tensor | None, MomentRule]:
        """Return the present moment of a parameter, or None if there is none yet, and the formula of its next step."""
        if id(group) not in self._of_groups:
            self._of_groups[id(group)] = first_moment(self._optimizer, group, parameter)
        of_group = self._of_groups[id(group)]
        moment = self._optimizer.state.get(parameter, {}).get(of_group.key)
        return (None, of_group.first) if moment is None else (moment, of_group.later)


def _probes(p: nn.Parameter) -> tuple[Tensor, Tensor, Tensor]:
    """Return test values of the moment, the gradient and the weight.

    Entry 0 has only a moment, entry 1 only a gradient and entry 2 only a weight, all of 1, so that the moment after a
    step shows a factor in each. The other entries have all three, and check the formula.
    """
    index_P = torch.arange(p.numel(), dtype=torch.float32, device=p.device)
    probes = [torch.sin(index_P * step + 1.0) for step in (0.7, 1.3, 2.1)]  # irregular, without random numbers
    for i, probe_P in enumerate(probes):
        probe_P[:3] = index_P[:3] == i
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
    """Return the keys of the state that an optimizer has for each entry of a parameter.

    Args:
        optimizer: the optimizer.
        group: the parameter's group.
        like: the parameter.
        name: the parameter's name, for errors.

    Raises:
        ValueError: some state has neither the parameter's shape nor a single number, state that `step` creates does not
            begin at zero, or a trial fails.
    """
    kind = type(optimizer).__name__
    trial = Trial(optimizer, group, like, weight_decay=0.0)
    weight_P = _probes(trial.parameter)[2]
    keys_before, state = trial.step(weight_P, torch.zeros_like(weight_P))
    keys = frozenset(key for key, _ in entry_states(state, trial.parameter.shape, kind, name))
    for key in sorted(keys - keys_before):
        if bool(state[key].any()):
            raise ValueError(
                "moments=masked needs moments that begin at zero, "
                f"and after a first step with a gradient of zero {kind}'s {key} is not zero"
            )
    return keys


def entry_states(
    state: dict[str, Any], shape: torch.Size, kind: str, name: str, keys: frozenset[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts of a parameter's state that have a value for each entry: the key, and the tensor.

    Args:
        state: the state of one parameter.
        shape: the parameter's shape.
        kind, name: the optimizer's class and the parameter's name, for the error.
        keys: the keys of such parts, if they are known; None: all floating-point tensors of the parameter's shape.

    Raises:
        ValueError: a part of the state is neither such a tensor nor a single number.
    """
    for key, value in state.items():
        if value is None or isinstance(value, bool | int | float | str):
            continue
        if isinstance(value, Tensor):
            has_entries = value.shape == shape and value.is_floating_point() and not _is_packed(value)
            if has_entries and (keys is None or key in keys):
                yield key, value
                continue
            if value.numel() == 1:
                continue
        raise ValueError(
            f"moments=masked needs moments that exist from the first step on and have their parameter's shape, got "
            f"{key} of {kind} for {name}"
        )


def _is_packed(value: Tensor) -> bool:
    """Return whether a tensor subclass only looks like floats, as the states of some 8-bit optimizers do."""
    return type(value) not in (Tensor, nn.Parameter) and type(value).__name__ != "DTensor"


def begin_state(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer of torch create the state of parameters with gradients, as its next step would do."""
    begin = getattr(optimizer, "_init_group", None)
    if begin is None or not begin.__module__.startswith("torch.optim."):
        return
    num_lists = len(inspect.signature(begin).parameters) - 1  # its other arguments: lists that it fills for the step
    for group in optimizer.param_groups:
        if any(p.grad is not None and not optimizer.state.get(p) for p in group["params"]):
            begin(group, *([] for _ in range(num_lists)))

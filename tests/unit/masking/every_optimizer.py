"""Each of torch's optimizers and schedulefree's with each of its switches, found by looking at their signatures."""

import inspect
from collections.abc import Iterator
from typing import Any

import schedulefree
import torch

# What a switch is turned to, and what it needs beside it.
SWITCHES: dict[str, dict[str, Any]] = {
    "amsgrad": {"amsgrad": True},
    "capturable": {"capturable": True, "fused": True},  # on a CPU only the fused ones take it
    "centered": {"centered": True},
    "dampening": {"dampening": 0.3, "momentum": 0.9},
    "decoupled_weight_decay": {"decoupled_weight_decay": True, "weight_decay": 0.3},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "initial_accumulator_value": {"initial_accumulator_value": 0.5},
    "lr_decay": {"lr_decay": 0.1},
    "maximize": {"maximize": True},
    "momentum": {"momentum": 0.9},
    "nesterov": {"nesterov": True, "momentum": 0.9},
    "weight_decay": {"weight_decay": 0.3},
}
# Numbers that change no more than the size of a step or of a moment, and `differentiable`, which is refused.
NUMBERS = {
    "adjust_lr_fn", "alpha", "beta2_decay", "betas", "d", "differentiable", "eps", "etas", "lambd", "lr",
    "momentum_decay", "ns_coefficients", "ns_steps", "params", "rho", "step_sizes", "t0",
    "r", "silent_sgd_phase", "warmup_steps", "weight_lr_power",
}  # fmt: skip
REFUSED = ("LBFGS", "SparseAdam", "Optimizer")
# Not its wrappers and editions that take a closure, which are refused or are no classes of torch's.
SCHEDULE_FREE = ("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree")
LOOPS = ("foreach", "fused")


def optimizer_classes() -> dict[str, type[torch.optim.Optimizer]]:
    """Those that a mask can work with, by name."""
    found = {name: kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and name not in REFUSED}
    of_torch = {name: kind for name, kind in found.items() if issubclass(kind, torch.optim.Optimizer)}
    return of_torch | {name: getattr(schedulefree, name) for name in SCHEDULE_FREE}


def settings_of(kind: type[torch.optim.Optimizer]) -> Iterator[dict[str, Any]]:
    """The defaults; each switch alone; all that go together, in each loop that the optimizer has."""
    known = set(inspect.signature(kind).parameters)
    assert known <= NUMBERS | SWITCHES.keys(), f"{kind.__name__} has settings that these tests don't know"
    rate = {"lr": 0.05}
    together: dict[str, Any] = {}
    yield rate
    for name in SWITCHES:
        if name in known and SWITCHES[name].keys() <= known:
            yield rate | SWITCHES[name]
            if name not in ("capturable", "dampening", *LOOPS):  # nesterov takes no dampening
                together |= SWITCHES[name]
    for loop in LOOPS:
        if loop in known:
            yield rate | together | {loop: True}
    if "foreach" in known:
        yield rate | together | {"foreach": False}


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every optimizer with every one of its settings."""
    return [(name, settings) for name, kind in optimizer_classes().items() for settings in settings_of(kind)]


def case_id(case: Any) -> str:
    """For pytest."""
    name, settings = case
    return "-".join([name, *(f"{k}={v}" for k, v in settings.items() if k != "lr")])

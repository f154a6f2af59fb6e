"""The optimizers of `train.optimizer`: how each is made, and whether it works with masks and with several workers.

Imports no library until an optimizer is made, so that planning can read the table.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gmt.errors import UserError
from gmt.methods.protocol import MakesGroups, Method, OptimizerFacts, ParameterGroup, maker_of_optimizer

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

ADAM_EPS = 1e-8  # transformers' default; another value would change the results of existing run ids

Make = Callable[[list[ParameterGroup], "float | None"], "Optimizer"]


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """Properties of an optimizer, known before it is made.

    Args:
        make: makes the optimizer from groups with all settings of AdamW, and from train.momentum.
        has_momentum: whether the optimizer uses train.momentum.
        has_betas: whether the optimizer uses train.adam_beta1 and train.adam_beta2.
        package, distribution: the names, in Python and for pip, of the package that it needs besides torch; None if it
            needs none.
        is_extra: whether gmt-lab[optimizers] installs the package.
        has_first_moment, moments, averages_weights: see OptimizerFacts; for sgd, with a momentum above 0.
    """

    make: Make
    has_momentum: bool = False
    has_betas: bool = True
    package: str | None = None
    distribution: str | None = None
    is_extra: bool = False
    has_first_moment: bool = False
    moments: str = "entries"
    averages_weights: bool = False


def _adamw(groups: list[ParameterGroup], _: float | None) -> Optimizer:
    import torch

    return torch.optim.AdamW(groups, fused=True)  # as transformers makes it


def _sgd(groups: list[ParameterGroup], momentum: float | None) -> Optimizer:
    import torch

    assert momentum is not None
    return torch.optim.SGD(_with(groups, "lr", "weight_decay"), momentum=momentum)


def _adafactor(groups: list[ParameterGroup], _: float | None) -> Optimizer:
    import torch

    return torch.optim.Adafactor(_with(groups, "lr", "weight_decay"))


def _muon(groups: list[ParameterGroup], momentum: float | None) -> Optimizer:
    from gmt.optimizers.muon import MuonWithAdamW

    assert momentum is not None
    return MuonWithAdamW(groups, momentum=momentum)


def _lion(groups: list[ParameterGroup], _: float | None) -> Optimizer:
    from pytorch_optimizer import Lion

    return cast("Optimizer", Lion(_with(groups, "lr", "weight_decay", "betas")))


def _schedulefree(groups: list[ParameterGroup], _: float | None) -> Optimizer:
    from schedulefree import AdamWScheduleFree

    return cast("Optimizer", AdamWScheduleFree(groups))


def _adamw_8bit(groups: list[ParameterGroup], _: float | None) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return cast("Optimizer", AdamW8bit(groups))


OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "adamw": OptimizerKind(make=_adamw, has_first_moment=True),
    "sgd": OptimizerKind(make=_sgd, has_momentum=True, has_betas=False, has_first_moment=True),
    "adafactor": OptimizerKind(make=_adafactor, has_betas=False, moments="factored"),
    "muon": OptimizerKind(make=_muon, has_momentum=True, has_first_moment=True),
    "lion": OptimizerKind(
        make=_lion, has_first_moment=True, package="pytorch_optimizer", distribution="pytorch-optimizer", is_extra=True
    ),
    "schedulefree": OptimizerKind(
        make=_schedulefree, averages_weights=True, package="schedulefree", distribution="schedulefree", is_extra=True
    ),
    "adamw_8bit": OptimizerKind(
        make=_adamw_8bit, moments="packed", package="bitsandbytes", distribution="bitsandbytes"
    ),
}
SHARDED = ("adamw",)  # optimizers whose state the sharded checkpoints of FSDP2 can hold


def facts_of(name: str, momentum: float | None) -> OptimizerFacts:
    """Return the properties of train.optimizer that methods may check."""
    kind = OPTIMIZERS[name]
    has_no_moment = name == "sgd" and not momentum
    return OptimizerFacts(
        name=name,
        has_first_moment=kind.has_first_moment and not has_no_moment,
        moments="none" if has_no_moment else kind.moments,
        averages_weights=kind.averages_weights,
    )


def is_installed(name: str) -> bool:
    """Return whether an optimizer's package is installed."""
    package = OPTIMIZERS[name].package
    return package is None or importlib.util.find_spec(package) is not None


def check_installed(name: str) -> None:
    """Raise UserError if an optimizer's package is not installed; the message says what to install."""
    kind = OPTIMIZERS[name]
    if not is_installed(name):
        requirement = "gmt-lab[optimizers]" if kind.is_extra else kind.distribution
        raise UserError(
            f"train.optimizer={name} needs the package {kind.package}, which is not installed: "
            f"pip install '{requirement}'"
        )


def make_optimizer(
    method: Method, model: PreTrainedModel, groups: list[ParameterGroup], *, name: str, momentum: float | None
) -> Optimizer:
    """Return the optimizer of a training; the method makes it if it is a `MakesOptimizer`.

    Args:
        method: the method, which may make groups or the optimizer.
        model: the model that will be trained.
        groups: groups of the parameters that train, with all settings of AdamW.
        name, momentum: train.optimizer and train.momentum.

    Raises:
        UserError: the method's groups leave a parameter out, hold one twice or hold one that does not train; or the
            method's optimizer is not a torch optimizer.
    """
    from torch.optim import Optimizer

    groups = [group for group in groups if group["params"]]
    copied = [{**group, "params": [*group["params"]]} for group in groups]
    if (maker := maker_of_optimizer(method)) is not None:
        optimizer = maker.make_optimizer(model, copied)
        if not isinstance(optimizer, Optimizer):
            raise UserError(
                f"method {method.name}: make_optimizer must return a torch.optim.Optimizer, "
                f"got {type(optimizer).__name__}"
            )
        _check_groups(method.name, model, groups, optimizer.param_groups)
        return optimizer
    if isinstance(method, MakesGroups):
        copied = method.groups(model, copied)
        _check_groups(method.name, model, groups, copied)
    if name == "muon":
        from gmt.optimizers.muon import split_groups

        copied = split_groups(model, copied)
    return OPTIMIZERS[name].make(copied, momentum)


def default_groups(
    model: nn.Module, decayed: list[str], *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> list[ParameterGroup]:
    """Return the parameters that train, in two groups: with weight decay, and without.

    Args:
        model: the model that will be trained.
        decayed: the names of the parameters with weight decay.
        lr, weight_decay, betas: the settings of `train`.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    settings = {"lr": lr, "betas": betas, "eps": ADAM_EPS}
    return [
        {"params": [p for name, p in named if (name in decayed) == is_decayed], "weight_decay": decay, **settings}
        for is_decayed, decay in ((True, weight_decay), (False, 0.0))
    ]


@contextmanager
def evaluated_weights(optimizer: Optimizer) -> Iterator[None]:
    """Set the model's weights to those to evaluate inside the block, and back to those of the training after it.

    They differ only if the optimizer averages weights. The training's weights are copied, since computing them from the
    average would round them.
    """
    if not averages(optimizer):
        yield
        return
    trained = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        for parameter, value in trained:
            parameter.detach().copy_(value)


def averages(optimizer: Optimizer) -> bool:
    """Return whether an optimizer has a mode for training and one for evaluation, as the schedule-free ones have."""
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


def _with(groups: list[ParameterGroup], *settings: str) -> list[ParameterGroup]:
    """Return the groups with only the named settings."""
    return [{key: group[key] for key in ("params", *settings)} for group in groups]


def _check_groups(method: str, model: nn.Module, expected: list[ParameterGroup], actual: list[dict[str, Any]]) -> None:
    """Raise UserError if the actual groups don't hold each parameter of the expected groups once, and no other."""
    names = {id(p): name for name, p in model.named_parameters()}
    trained = dict.fromkeys(id(p) for group in expected for p in group["params"])
    counts = Counter(id(p) for group in actual for p in group["params"])
    faults = {
        "leave out": [key for key in trained if key not in counts],
        "hold more than once": [key for key, count in counts.items() if count > 1],
        "hold, though it does not train,": [key for key in counts if key not in trained],
    }
    for fault, keys in faults.items():
        if keys:
            raise UserError(
                f"method {method}: the optimizer's groups must hold each trainable parameter exactly once, and {fault} "
                f"{names.get(keys[0], 'one that the model does not have')}"
            )

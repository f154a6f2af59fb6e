"""Refuses optimizers, models and settings that a mask can't work with, before the first step, in one sentence each."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from gmt.masking import trial
from gmt.masking.parameters import DTYPES, is_excluded, layer_of
from gmt.masking.sharding import is_sharded
from gmt.masking.signals import FIRST_MOMENT, ChecksShapes, row_of
from gmt.masking.spec import MaskSpec


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside the wrapper of accelerate or Lightning, if there is a wrapper.

    Raises:
        ValueError: the object is not a torch optimizer, or it is one that a mask can't work with.
    """
    for wrapper, inner in (("AcceleratedOptimizer", "optimizer"), ("LightningOptimizer", "_optimizer")):
        if type(optimizer).__name__ == wrapper:
            return unwrapped(getattr(optimizer, inner))
    kind = type(optimizer)
    if kind.__module__.startswith("deepspeed"):
        raise ValueError("DeepSpeed hides the gradients of its parameters, so that they can't be masked: use FSDP2")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer must be a torch.optim.Optimizer, got {kind.__module__}.{kind.__qualname__}")
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    if not all(hasattr(optimizer, name) for name in hooks) or not getattr(kind.step, "hooked", False):
        raise ValueError(
            f"{kind.__name__} never calls torch's step hooks: its __init__ must call super().__init__ first"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS evaluates the gradient several times in a step, so that a single mask can't fit it")
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise ValueError("SparseAdam takes sparse gradients, which can't be masked: use a dense optimizer")
    if kind.__name__ == "ZeroRedundancyOptimizer":
        raise ValueError(
            "ZeroRedundancyOptimizer steps through another optimizer, to which a mask can't be attached: use FSDP2"
        )
    return optimizer


def check_model(model: nn.Module) -> None:
    """Raise ValueError if a model is wrapped by DeepSpeed or FSDP1, or has embeddings with sparse gradients."""
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith("deepspeed"):
            raise ValueError("DeepSpeed hides the gradients of its parameters, so that they can't be masked: use FSDP2")
        if kind.__name__ == "FullyShardedDataParallel" and kind.__module__.startswith("torch"):
            raise ValueError("FSDP1 flattens its parameters, so that they can't be told apart: use FSDP2, fully_shard")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ValueError(f"the embedding {name} has sparse=True, and a sparse gradient can't be masked")


def ranked_parameters(optimizer: torch.optim.Optimizer, excluded: frozenset[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of an optimizer that are not excluded."""
    return [p for group in optimizer.param_groups for p in group["params"] if p not in excluded]


def check_parameters(
    optimizer: torch.optim.Optimizer,
    names: dict[nn.Parameter, str],
    spec: MaskSpec,
    excluded: frozenset[nn.Parameter],
) -> None:
    """Refuse settings that do not work with an optimizer and its parameters.

    Raises:
        ValueError: a parameter is not the model's, occurs more than once or has a dtype that can't be ranked, a pattern
            matches no parameter, the signal is a first moment that the optimizer does not keep, the signal can't score
            a parameter's shape, a tensor of several experts is not excluded, a parameter is sharded but must be whole,
            or the optimizer is differentiable.
    """
    held = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    if num_unknown := sum(p not in names for _, p in held):
        raise ValueError(f"the optimizer holds {num_unknown} parameters that the model does not have")
    counts = Counter(p for _, p in held)
    if repeated := [names[p] for p, number in counts.items() if number > 1]:
        raise ValueError(f"the optimizer must hold each parameter once, and holds {repeated[0]} more than once")
    for pattern in spec.exclude:
        if not any(is_excluded(names[p], (pattern,)) for _, p in held):
            raise ValueError(f"exclude: no parameter of the optimizer has a name like {pattern}")
    if spec.parameters != "all" and not ranked_parameters(optimizer, excluded):
        raise ValueError(
            f"parameters={spec.parameters}: the optimizer holds no weight of a linear layer inside a numbered layer"
        )
    if spec.parameters != "all":
        _refuse_fused_experts([names[p] for _, p in held if p.ndim > 2], spec)
    for group, p in held:
        name = names[p]
        if p in excluded:
            continue
        if p.dtype not in DTYPES:
            raise ValueError(f"{name} must be float32, bfloat16 or float16 to be ranked, got {p.dtype}")
        if spec.mask_ratio and spec.needs_whole_parameters and is_sharded(p):
            which = f"grain={spec.grain}" if spec.grain != "entry" else f"signal={row_of(spec.signal).name}"
            raise ValueError(f"{which} needs parameters that are whole, and {name} is sharded: use DDP")
        if spec.mask_ratio and isinstance(spec.signal, ChecksShapes):
            try:
                spec.signal.check_shape(tuple(p.shape))
            except ValueError as error:
                raise ValueError(f"signal: {name}: {error}") from error
        if group.get("differentiable"):
            raise ValueError(
                "differentiable=True records a step for autograd, which does not see the mask: leave it out"
            )
    if spec.mask_ratio and FIRST_MOMENT in row_of(spec.signal).needs:
        for group, p, _ in _by_num_dims(optimizer, excluded):
            trial.first_moment(optimizer, group, p)


def _refuse_fused_experts(names: Iterable[str], spec: MaskSpec) -> None:
    """Raise ValueError if a tensor of a numbered layer holds several matrices, as for experts, and is not excluded.

    Args:
        names: the names of the parameters with more than two dimensions.
        spec: the mask's settings, with `parameters` other than all.
    """
    for name in names:
        if layer_of(name) != name and not is_excluded(name, spec.exclude):
            raise ValueError(
                f"parameters={spec.parameters}: {name} has more than two dimensions, as experts in one tensor have, "
                "and can't be ranked as a linear layer, so that exclude must name it"
            )


def moment_keys(
    optimizer: torch.optim.Optimizer,
    names: dict[nn.Parameter, str],
    spec: MaskSpec,
    excluded: frozenset[nn.Parameter],
) -> dict[nn.Parameter, frozenset[str]]:
    """Return, for each ranked parameter, the keys of the optimizer's state whose masked entries must not change.

    Raises:
        ValueError: masked entries of this optimizer's state, or of its weights, can't be kept from changing.
    """
    kind = type(optimizer).__name__
    rules = [f"{s}={v}" for s, v in (("mask_on", spec.mask_on), ("moments", spec.moments)) if v in ("update", "masked")]
    if not spec.mask_ratio or not rules:
        return {}
    if isinstance(optimizer, torch.optim.ASGD) or all(hasattr(optimizer, mode) for mode in ("train", "eval")):
        raise ValueError(
            f"{rules[0]} can't hold with {kind}, which averages the weights apart from the mask: "
            "use mask_on=gradient and moments=dense"
        )
    if spec.moments != "masked":
        return {}
    keys: dict[nn.Parameter, frozenset[str]] = {}
    for group, first, members in _by_num_dims(optimizer, excluded):
        keys |= dict.fromkeys(members, trial.moment_keys(optimizer, group, first, names[first]))
    if keys and not any(keys.values()):
        raise ValueError(f"moments=masked needs an optimizer that keeps moments entry by entry, {kind} keeps none")
    return keys


def _by_num_dims(
    optimizer: torch.optim.Optimizer, excluded: frozenset[nn.Parameter]
) -> Iterator[tuple[dict[str, Any], nn.Parameter, list[nn.Parameter]]]:
    """Yield each group's ranked parameters with equally many dimensions: the group, the first of them, all of them."""
    for group in optimizer.param_groups:
        by_num_dims: dict[int, list[nn.Parameter]] = {}
        for p in group["params"]:
            if p not in excluded:
                by_num_dims.setdefault(p.ndim, []).append(p)
        for members in by_num_dims.values():
            yield group, members[0], members

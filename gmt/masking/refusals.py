"""What a mask can't work with, found out before the first step, each in one sentence."""

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
    """The torch optimizer inside accelerate's or Lightning's.

    Raises:
        ValueError: it is none, or one that a mask can't work with.
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
        raise ValueError("LBFGS evaluates the gradient several times in a step, so that no one mask fits it")
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise ValueError("SparseAdam takes sparse gradients, which can't be masked: use a dense optimizer")
    if kind.__name__ == "ZeroRedundancyOptimizer":
        raise ValueError("ZeroRedundancyOptimizer steps through another optimizer that can't be seen: use FSDP2")
    return optimizer


def check_model(model: nn.Module) -> None:
    """Refuses models whose gradients can't be masked.

    Raises:
        ValueError: it is wrapped by DeepSpeed or FSDP1, or has embeddings with sparse gradients.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith("deepspeed"):
            raise ValueError("DeepSpeed hides the gradients of its parameters, so that they can't be masked: use FSDP2")
        if kind.__name__ == "FullyShardedDataParallel" and kind.__module__.startswith("torch"):
            raise ValueError("FSDP1 flattens its parameters, so that they can't be told apart: use FSDP2, fully_shard")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise ValueError(f"the embedding {name} has sparse=True, and a sparse gradient can't be masked")


def ranked_parameters(optimizer: torch.optim.Optimizer, excluded: frozenset[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that an optimizer holds and that are not excluded."""
    return [p for group in optimizer.param_groups for p in group["params"] if p not in excluded]


def check_parameters(
    optimizer: torch.optim.Optimizer,
    names: dict[nn.Parameter, str],
    spec: MaskSpec,
    excluded: frozenset[nn.Parameter],
) -> None:
    """Refuses settings that this optimizer and these parameters can't follow.

    Raises:
        ValueError: a parameter has no name or a dtype that can't be ranked, a pattern fits no parameter, the signal is
            a first moment that the optimizer does not keep, the signal can't score a parameter's shape, experts in one
            tensor are neither ranked nor excluded, a parameter is
            sharded and must be whole, or the optimizer steps for autograd to see.
    """
    held = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    if nameless := sum(p not in names for _, p in held):
        raise ValueError(f"the optimizer holds {nameless} parameters that the model does not name")
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
                "differentiable=True records a step for autograd, which the mask does not enter: leave it out"
            )
    if spec.mask_ratio and FIRST_MOMENT in row_of(spec.signal).needs:
        for group, p, _ in _one_of_each_kind(optimizer, excluded):
            trial.first_moment(optimizer, group, p)


def _refuse_fused_experts(names: Iterable[str], spec: MaskSpec) -> None:
    """Refuses tensors of numbered layers that hold several matrices, as of experts, and that no pattern names.

    Args:
        names: of the parameters of more than two dimensions.
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
    """Return the keys of the optimizer's state whose masked entries keep their values, for each ranked parameter.

    Raises:
        ValueError: the optimizer's state is such that masked entries can't keep it, or their weights.
    """
    kind = type(optimizer).__name__
    holds = [f"{s}={v}" for s, v in (("mask_on", spec.mask_on), ("moments", spec.moments)) if v in ("update", "masked")]
    if not spec.mask_ratio or not holds:
        return {}
    if isinstance(optimizer, torch.optim.ASGD) or all(hasattr(optimizer, mode) for mode in ("train", "eval")):
        raise ValueError(
            f"{holds[0]} can't hold with {kind}, which averages the weights apart from the mask: "
            "use mask_on=gradient and moments=dense"
        )
    if spec.moments != "masked":
        return {}
    found: dict[nn.Parameter, frozenset[str]] = {}
    for group, like, members in _one_of_each_kind(optimizer, excluded):
        found |= dict.fromkeys(members, trial.moment_keys(optimizer, group, like, names[like]))
    if found and not any(found.values()):
        raise ValueError(f"moments=masked needs an optimizer that keeps moments entry by entry, {kind} keeps none")
    return found


def _one_of_each_kind(
    optimizer: torch.optim.Optimizer, excluded: frozenset[nn.Parameter]
) -> Iterator[tuple[dict[str, Any], nn.Parameter, list[nn.Parameter]]]:
    """Gives the ranked parameters of each group by their number of dimensions: (group, the first, all)."""
    for group in optimizer.param_groups:
        kinds: dict[int, list[nn.Parameter]] = {}
        for p in group["params"]:
            if p not in excluded:
                kinds.setdefault(p.ndim, []).append(p)
        for members in kinds.values():
            yield group, members[0], members

"""What a mask can't work with, found out before the first step, each in one sentence."""

from typing import Any

import torch
from torch import nn

from gmt.masking.parameters import DTYPES, is_excluded, moment_weights
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


def check_parameters(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str], spec: MaskSpec) -> None:
    """Refuses settings that this optimizer and these parameters can't follow.

    Raises:
        ValueError: a parameter has no name or a dtype that can't be ranked, a pattern fits no parameter, or the
            signal is a first moment that the optimizer does not keep.
    """
    held = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    if nameless := sum(p not in names for _, p in held):
        raise ValueError(f"the optimizer holds {nameless} parameters that the model does not name")
    for pattern in spec.exclude:
        if not any(is_excluded(names[p], (pattern,)) for _, p in held):
            raise ValueError(f"exclude: no parameter of the optimizer has a name like {pattern}")
    for group, p in held:
        name = names[p]
        if is_excluded(name, spec.exclude):
            continue
        if p.dtype not in DTYPES:
            raise ValueError(f"{name} must be float32, bfloat16 or float16 to be ranked, got {p.dtype}")
        if spec.signal == "first_moment" and moment_weights(group) is None:
            kind = type(optimizer).__name__
            raise ValueError(f"signal=first_moment needs an optimizer with betas or momentum, got {kind} without")

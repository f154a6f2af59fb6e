"""Attaches a mask to an optimizer."""

import torch
from torch import nn

from gmt.masking import refusals
from gmt.masking.activations import Batches
from gmt.masking.engine import Mask
from gmt.masking.packed_mask import PackedMask
from gmt.masking.spec import PACKED, MaskSpec
from gmt.masking.step_hook import is_hooked


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    spec: MaskSpec,
    *,
    seed: int = 0,
    facts_every: int = 10,
    facts_entries: int = 1 << 18,
    source: Batches | None = None,
) -> Mask:
    """Attach a mask to the optimizer of a model; masking begins with the optimizer's next step.

    With `mask_on="gradient"` the gradients are masked in place, once, when the optimizer steps: after accumulation,
    unscaling and clipping.

    Args:
        model: the model whose parameters are masked: plain, compiled, or under DDP or FSDP2. Tied weights are ranked
            once.
        optimizer: any torch optimizer over parameters of `model`, also inside accelerate's or Lightning's.
        spec: the mask's settings.
        seed: for `signal="random"`: the draw depends on seed, step and parameter name only.
        facts_every: the number of steps between measurements of facts; the first step is measured too. 0: never.
        facts_entries: the number of entries to measure, over all shards, at least 1; a smaller model is measured whole.
        source: for `calibration="source"`: returns batches of source data for the model's forward pass. The first step
            reads them, in eval mode; they must be the same on every process.

    Returns:
        The attached mask; `detach()` removes it.

    Raises:
        ValueError: the mask can't work with this model or optimizer: DeepSpeed, FSDP1, LBFGS, sparse gradients,
            parameters that are not the model's, float64, a pattern that matches no name. Later, at a step: a group of
            such parameters was added, or the optimizer calls its closure twice.
        NonFiniteGradientError: later, at a step whose gradient holds NaN or Inf. If a GradScaler skips the step,
            nothing is raised, and the mask does not count the step.
    """
    if facts_every < 0 or facts_entries < 1:
        raise ValueError(
            f"facts_every must be at least 0 and facts_entries at least 1, got {facts_every}, {facts_entries}"
        )
    inner = refusals.unwrapped(optimizer)
    if is_hooked(inner):
        raise ValueError("this optimizer has a mask already: call detach() of the first mask before you attach another")
    refusals.check_model(model)
    if (spec.calibration == "source") != (source is not None):
        raise ValueError(
            f"source must be given with calibration=source and left out otherwise, got calibration={spec.calibration}"
        )
    kind = PackedMask if spec.moments == PACKED else Mask
    return kind(model, inner, spec, seed=seed, facts_every=facts_every, facts_entries=facts_entries, source=source)

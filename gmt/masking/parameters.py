"""The parameters that a mask is about: their names, their layers, and what is ranked of each at a step.

Shape suffixes: N entries of a parameter that lie here, flattened.
"""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.random_bits import MAX_ENTRIES, hashed, keys, random_bits
from gmt.masking.sampling import Index, pick
from gmt.masking.selection import CHUNK, Scores
from gmt.masking.sharding import ProcessGroups, first_index, local, shards_of
from gmt.masking.spec import MaskSpec

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CUDA_CHUNK = 1 << 26  # entries, where scores are views: a launch costs as much as reading some millions of entries
CUDA_COMPUTED_CHUNK = 1 << 24  # where they are computed, which takes their memory several times over
_COMPUTED = ("first_moment", "weight_times_gradient", "random")
_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_checkpoint_wrapped_module\.")
_LAYER = re.compile(r"^(?:.*?\.)?\d+(?=\.)")


def plain_name(name: str) -> str:
    """A parameter's name without what torch.compile, DDP and activation checkpointing put into it."""
    return _WRAPPERS.sub("", name)


def layer_of(name: str) -> str:
    """The layer of a parameter: its name up to the first number, or else the name itself."""
    match = _LAYER.match(name)
    return match.group() if match else name


def is_excluded(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns, as in a shell."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(kw_only=True)
class Ranked:
    """A parameter at an optimizer step, as it is ranked.

    Args:
        name: its plain name.
        parameter: itself.
        weight_N, gradient_N: what lies here of it and of its gradient; the gradient shares memory.
        accumulated_N: the sum of gradients that is ranked instead of the gradient, if there is one.
        moment_N: its first moment before this step, if there is one yet.
        decay: the share of the first moment that stays at a step.
        gain: the share of the gradient that is added to it, divided by a GradScaler's scale.
        key: of the random draw.
        start: index of the first entry here in the whole tensor, if the draw needs it.
        num_entries: of the whole tensor, over all shards.
        shards: the processes that hold its parts; None if it is whole.
    """

    name: str
    parameter: nn.Parameter
    weight_N: Tensor
    gradient_N: Tensor
    accumulated_N: Tensor | None
    moment_N: Tensor | None
    decay: float
    gain: float
    key: tuple[int, int]
    start: int
    num_entries: int
    shards: ProcessGroups | None

    def score(self, signal: str, start: int, stop: int) -> Tensor:
        """The scores of a stretch of the entries here, by MaskSpec's signal; float, or int32 bits for `random`."""
        part = slice(start, stop)
        gradient = self.gradient_N[part]
        match signal:
            case "gradient":
                return gradient
            case "accumulated_gradient":
                return gradient if self.accumulated_N is None else self.accumulated_N[part]
            case "random":
                return random_bits(len(gradient), self.key, start=self.start + start, stride=1, device=gradient.device)
            case "first_moment":
                moment = 0.0 if self.moment_N is None else self.moment_N[part].float() * self.decay
                return gradient.float() * self.gain + moment
            case "weight_magnitude":
                return self.weight_N[part]
            case "weight_times_gradient":
                return self.weight_N[part].float() * gradient.float()
        raise AssertionError(signal)

    def score_at(self, signal: str, index: Index) -> Tensor:
        """The scores of the entries here at an index."""
        if signal == "random" and index is not None:
            return hashed((self.start + index).to(torch.int32), self.key)
        names = ("weight_N", "gradient_N", "accumulated_N", "moment_N")
        some: dict[str, Any] = {
            name: None if (x_N := getattr(self, name)) is None else pick(x_N, index) for name in names
        }
        return replace(self, **some).score(signal, 0, len(some["gradient_N"]))

    def scores(self, signal: str) -> Scores:
        """All of them, for the selection."""

        def chunks() -> Iterator[Tensor]:
            for start, stop in self.stretches(signal):
                yield self.score(signal, start, stop)

        return Scores(
            chunks=chunks,
            dtype=self.score(signal, 0, 0).dtype,
            num_entries=self.num_entries,
            shards=self.shards,
            device=self.gradient_N.device,
        )

    def stretches(self, signal: str) -> Iterator[tuple[int, int]]:
        """Where the chunks of scores start and stop."""
        chunk = CHUNK
        if self.gradient_N.device.type == "cuda":
            chunk = CUDA_COMPUTED_CHUNK if signal in _COMPUTED else CUDA_CHUNK
        for start in range(0, len(self.gradient_N), chunk):
            yield start, min(start + chunk, len(self.gradient_N))


def first_moment(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """The optimizer's first moment of a parameter, or None before it has one."""
    state = optimizer.state.get(parameter, {})
    moment = state.get("exp_avg", state.get("momentum_buffer"))
    return moment if isinstance(moment, Tensor) else None


def moment_weights(group: dict[str, Any]) -> tuple[float, float] | None:
    """How a group's optimizer makes its first moment: (share of the old one, share of the gradient); None if not."""
    if "betas" in group:
        return float(group["betas"][0]), 1 - float(group["betas"][0])
    if group.get("momentum"):
        return float(group["momentum"]), 1 - float(group.get("dampening", 0))
    return None


def ranked(
    name: str,
    parameter: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    group: dict[str, Any],
    spec: MaskSpec,
    *,
    seed: int,
    draw: int,
    scale: float,
    accumulated_N: Tensor | None,
) -> Ranked:
    """Gathers what is ranked of a parameter; makes its gradient contiguous if it is not.

    Args:
        draw: the step, from 0, for which a random mask is drawn.
        scale: by which a GradScaler has multiplied the gradient.

    Raises:
        ValueError: the gradient can't be ranked; names the parameter.
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise ValueError(f"the gradient of {name} is sparse, which can't be masked: use dense gradients")
    if gradient.dtype not in DTYPES:
        raise ValueError(f"the gradient of {name} must be float32, bfloat16 or float16, got {gradient.dtype}")
    here = local(gradient.detach())
    if not here.is_contiguous():
        parameter.grad = gradient = gradient.contiguous()
        here = local(gradient.detach())
    start = first_index(gradient) if spec.signal == "random" else 0
    if start is None:
        raise ValueError(f"signal=random needs parameters that are cut by rows alone, {name} is {gradient.placements}")  # type: ignore[attr-defined]
    if spec.signal == "random" and gradient.numel() >= MAX_ENTRIES:
        raise ValueError(f"signal=random takes tensors below 2^31 entries, {name} has {gradient.numel()}")
    moment = first_moment(optimizer, parameter) if spec.signal == "first_moment" else None
    decay, gain = (moment_weights(group) or (0.0, 1.0)) if moment is not None else (0.0, 1.0)
    return Ranked(
        name=name,
        parameter=parameter,
        weight_N=local(parameter.detach()).reshape(-1),
        gradient_N=here.view(-1),
        accumulated_N=accumulated_N,
        moment_N=None if moment is None else local(moment).reshape(-1),
        decay=decay,
        gain=gain / scale,
        key=keys(seed, draw, name) if spec.signal == "random" else (0, 0),
        start=start,
        num_entries=gradient.numel(),
        shards=shards_of(gradient),
    )

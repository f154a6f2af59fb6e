"""The parameters that a mask is about: their names, their layers, and what is ranked of each at a step.

Shape suffixes: N entries of a parameter that lie here, flattened.
"""

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.random_bits import MAX_ENTRIES, hashed, keys
from gmt.masking.rule import CHUNK, Draw, Scores
from gmt.masking.sampling import Index, pick
from gmt.masking.sharding import ProcessGroups, first_index, local, shards_of
from gmt.masking.signals import DRAW, Row
from gmt.masking.spec import MaskSpec
from gmt.masking.trial import MomentRule

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CUDA_CHUNK = 1 << 26  # entries, where scores are views: a launch costs as much as reading some millions of entries
CUDA_COMPUTED_CHUNK = 1 << 24  # where they are computed, which takes their memory several times over
_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_checkpoint_wrapped_module\.")
_LAYER = re.compile(r"^(?:.*?\.)?\d+(?=\.)")


def plain_name(name: str) -> str:
    """A parameter's name without what torch.compile, DDP and activation checkpointing put into it."""
    return _WRAPPERS.sub("", name)


def names_of(model: nn.Module) -> dict[nn.Parameter, str]:
    """The parameters' plain names; a tied weight has its first."""
    named = {p: plain_name(name) for name, p in model.named_parameters()}
    return named if len(set(named.values())) == len(named) else {p: name for name, p in model.named_parameters()}


def layer_of(name: str) -> str:
    """The layer of a parameter: its name up to the first number, or else the name itself."""
    match = _LAYER.match(name)
    return match.group() if match else name


def is_excluded(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns, as in a shell."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module multiplies by a matrix: torch's Linear, or the Conv1D of transformers."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def excluded_parameters(
    model: nn.Module, names: Mapping[nn.Parameter, str], spec: MaskSpec
) -> tuple[frozenset[nn.Parameter], frozenset[nn.Parameter]]:
    """Return the parameters of a model that are not ranked, and those among them that are not trained."""
    named = {p for p, name in names.items() if is_excluded(name, spec.exclude)}
    others: set[nn.Parameter] = set()
    if spec.parameters != "all":
        linear = {module.weight for module in model.modules() if is_linear(module)}
        others = {p for p, name in names.items() if p not in linear or layer_of(name) == name}
    frozen = named if spec.excluded == "frozen" else set()
    left_out = others - named if spec.parameters == "linear_alone" else set()
    return frozenset(named | others), frozenset(frozen | left_out)


def flat(tensor: Tensor) -> Tensor:
    """The entries in the order of their indices, contiguous, shape [N]; shares memory if the tensor is contiguous."""
    return tensor.contiguous().view(-1)


@dataclass(kw_only=True)
class Ranked:
    """A parameter at an optimizer step, as it is ranked.

    Args:
        name: its plain name.
        parameter: itself.
        gradient: the part of its gradient that lies here, in its own layout.
        gradient_N: its entries in the order of their indices; shares memory with a contiguous gradient, else a copy.
        accumulated_N: the sum of gradients that is ranked instead of the gradient, if there is one.
        moment_N: its first moment before this step, if there is one yet and it is ranked.
        rule: how the first moment is made at this step, if it is ranked.
        scale: by which a GradScaler has multiplied the gradient.
        key: of the random draw.
        start: index of the first entry here in the whole tensor, if the draw needs it.
        num_entries: of the whole tensor, over all shards.
        shards: the processes that hold its parts; None if it is whole.
        whole_N: its scores while it is ranked, float32, by a signal that scores a parameter as a whole.
        activity: the sums over what its layer reads or writes, if they are ranked, shaped to spread over its entries.
        read_weights: returns the weights, where they are not all of the parameter's.
    """

    name: str
    parameter: nn.Parameter
    gradient: Tensor
    gradient_N: Tensor
    accumulated_N: Tensor | None
    moment_N: Tensor | None
    rule: MomentRule | None
    scale: float
    key: tuple[int, int]
    start: int
    num_entries: int
    shards: ProcessGroups | None
    whole_N: Tensor | None = None
    activity: Tensor | None = None
    read_weights: Callable[[], Tensor] | None = None
    _sample: "Ranked | None" = None

    @functools.cached_property
    def weight_N(self) -> Tensor:
        """The weights that lie here, to be read: a copy if they are not contiguous."""
        return self.read_weights() if self.read_weights else _weights(self.parameter)

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        return self.parameter.shape

    def score_at(self, row: Row, index: Index) -> Tensor:
        """The scores of the entries here at an index."""
        if DRAW in row.needs and index is not None:
            return hashed((self.start + index).to(torch.int32), self.key)
        some = self.sample(index)
        return row.score(some, slice(0, len(some.gradient_N)))

    def sample(self, index: Index) -> "Ranked":
        """Return copies of what is ranked at an index, the same index at each call; weights when first read."""
        if self._sample is None:
            names = ("gradient_N", "accumulated_N", "moment_N")
            fields: dict[str, Any] = {
                name: None if (x_N := getattr(self, name)) is None else pick(x_N, index) for name in names
            }
            # of the parameter and not of self, which would hold dense gradients until the garbage collector comes
            weights = functools.partial(_weights_at, self.parameter, index)
            self._sample = replace(self, **fields, read_weights=weights)
        return self._sample

    def scores(self, row: Row) -> Scores:
        """The scores of all entries here by a signal's row, for the selection."""

        def chunks() -> Iterator[Tensor]:
            for part in self.stretches(row):
                yield row.score(self, part)

        return Scores(
            chunks=chunks,
            dtype=row.score(self, slice(0, 0)).dtype,
            num_entries=self.num_entries,
            shards=self.shards,
            device=self.gradient_N.device,
            is_view=row.is_view,
            draw=self.draw(row),
        )

    def draw(self, row: Row) -> Draw | None:
        """Return which hashes are the scores, if a signal draws them."""
        return Draw(key=self.key, start=self.start) if DRAW in row.needs else None

    def stretches(self, row: Row) -> Iterator[slice]:
        """Where the chunks of scores lie."""
        chunk = CHUNK
        if self.gradient_N.device.type == "cuda":
            chunk = CUDA_CHUNK if row.is_view else CUDA_COMPUTED_CHUNK
        size = self.gradient_N.numel()  # len() of a tensor takes a detour through Python
        for start in range(0, size, chunk):
            yield slice(start, min(start + chunk, size))


def _weights(parameter: nn.Parameter) -> Tensor:
    return flat(local(parameter.detach()))


def _weights_at(parameter: nn.Parameter, index: Index) -> Tensor:
    return pick(_weights(parameter), index)


def ranked(
    name: str,
    parameter: nn.Parameter,
    row: Row,
    *,
    seed: int,
    draw: int,
    scale: float,
    accumulated_N: Tensor | None,
    first_moment: tuple[Tensor | None, MomentRule] | None,
    gradient: Tensor | None = None,
) -> Ranked:
    """Gathers what is ranked of a parameter; its gradient stays the tensor that it is.

    Args:
        row: of the signal.
        draw: the step, from 0, for which a random mask is drawn.
        scale: by which a GradScaler has multiplied the gradient.
        accumulated_N: as `Ranked` has it.
        first_moment: the one before this step, if there is one yet, in the parameter's shape; and its rule.
        gradient: in the place of the parameter's own, where no gradient is read.

    Raises:
        ValueError: the gradient can't be ranked; names the parameter.
    """
    gradient = parameter.grad if gradient is None else gradient
    assert gradient is not None
    if gradient.is_sparse:
        raise ValueError(f"the gradient of {name} is sparse, which can't be masked: use dense gradients")
    if gradient.dtype not in DTYPES:
        raise ValueError(f"the gradient of {name} must be float32, bfloat16 or float16, got {gradient.dtype}")
    here = local(gradient.detach())
    is_drawn = DRAW in row.needs
    start = first_index(gradient) if is_drawn else 0
    if start is None:
        raise ValueError(f"signal=random needs parameters that are cut by rows alone, {name} is {gradient.placements}")  # type: ignore[attr-defined]
    if is_drawn and gradient.numel() >= MAX_ENTRIES:
        raise ValueError(f"signal=random takes tensors below 2^31 entries, {name} has {gradient.numel()}")
    moment, rule = first_moment or (None, None)
    return Ranked(
        name=name,
        parameter=parameter,
        gradient=here,
        gradient_N=flat(here),
        accumulated_N=accumulated_N,
        moment_N=None if moment is None else flat(local(moment)),
        rule=rule,
        scale=scale,
        key=keys(seed, draw, name) if is_drawn else (0, 0),
        start=start,
        num_entries=gradient.numel(),
        shards=shards_of(gradient),
    )


def first_nonfinite(every: Sequence[Ranked]) -> str | None:
    """Return the name of the first parameter whose gradient holds NaN or Inf, on any shard."""
    return first_nonfinite_tensor({r.name: r.gradient_N for r in every}, [r.shards for r in every])


def first_nonfinite_tensor(tensors: Mapping[str, Tensor], shards: Sequence[ProcessGroups | None] = ()) -> str | None:
    """Return the name of the first tensor that holds NaN or Inf, on any shard.

    Args:
        tensors: by name, the parts that lie here.
        shards: the processes that hold the other parts.
    """
    if not tensors:
        return None
    # A norm is cheap and finite but for huge values: only those are looked at entry by entry.
    parts = list(tensors.values())
    norms = torch._foreach_norm(parts, dtype=torch.float32)
    bad = torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().logical_not()
    for i in bad.nonzero().flatten().tolist():
        bad[i] = bool(parts[i].isfinite().all().logical_not())
    counts = bad.to(torch.int64)
    for processes in dict.fromkeys(group for group in shards if group is not None):
        processes.sum_(counts)  # each kind of sharding: counts may be taken twice, which doesn't matter here
    return next((name for name, count in zip(tensors, counts.tolist(), strict=True) if count), None)

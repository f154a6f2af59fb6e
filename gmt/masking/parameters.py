"""The parameters of a masked model: their names, their layers, and the tensors by which each is ranked at a step.

Shape suffixes: N entries of a parameter on this process, flattened.
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
CUDA_CHUNK = 1 << 26  # entries, if scores are views: a launch takes as long as reading some millions of entries
CUDA_COMPUTED_CHUNK = 1 << 24  # entries, if scores are computed, which takes several times their memory
_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_checkpoint_wrapped_module\.")
_LAYER = re.compile(r"^(?:.*?\.)?\d+(?=\.)")


def plain_name(name: str) -> str:
    """Return a parameter's name without the parts that torch.compile, DDP and activation checkpointing add."""
    return _WRAPPERS.sub("", name)


def names_of(model: nn.Module) -> dict[nn.Parameter, str]:
    """Return the plain name of each parameter; for a tied weight, the first of its names."""
    named = {p: plain_name(name) for name, p in model.named_parameters()}
    return named if len(set(named.values())) == len(named) else {p: name for name, p in model.named_parameters()}


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its name up to the first number, or the whole name if it has no number."""
    match = _LAYER.match(name)
    return match.group() if match else name


def is_excluded(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches one of the patterns, as in a shell."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer: torch's Linear, or the Conv1D of transformers."""
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
    """Return a tensor's entries as a contiguous vector, shape [N]; it shares memory if the tensor is contiguous."""
    return tensor.contiguous().view(-1)


@dataclass(kw_only=True)
class Ranked:
    """A parameter at an optimizer step, with the tensors by which it is ranked.

    Args:
        name: the parameter's plain name.
        parameter: the parameter.
        gradient: this process's part of the gradient, in the gradient's layout.
        gradient_N: the same entries in the order of their indices; shares memory with `gradient` if that is contiguous.
        accumulated_N: the sum of gradients that is ranked instead of the gradient, if there is one.
        moment_N: the first moment before this step, if it is ranked and exists already.
        rule: the formula of the first moment after this step, if the first moment is ranked.
        scale: the factor by which a GradScaler has multiplied the gradient.
        key: the key of the random draw.
        start: the index, in the whole tensor, of this process's first entry, if the draw needs it.
        num_entries: the number of entries of the whole tensor, over all shards.
        shards: the processes that hold the other parts; None if the parameter is not sharded.
        whole_N: the scores, float32, while the parameter is ranked by a signal that scores whole parameters.
        activity: the sums over the inputs or outputs of the parameter's layer, if they are ranked, in a shape that
            broadcasts over the parameter.
        read_weights: returns the weights, if these are only some of the parameter's entries.
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
        """This process's weights, for reading only: a copy if they are not contiguous."""
        return self.read_weights() if self.read_weights else _weights(self.parameter)

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        return self.parameter.shape

    def score_at(self, row: Row, index: Index) -> Tensor:
        """Return the scores of this process's entries at an index."""
        if DRAW in row.needs and index is not None:
            return hashed((self.start + index).to(torch.int32), self.key)
        sample = self.sample(index)
        return row.score(sample, slice(0, len(sample.gradient_N)))

    def sample(self, index: Index) -> "Ranked":
        """Return the entries at an index, as copies; weights are copied when they are first read.

        Args:
            index: the indices; the same at each call.
        """
        if self._sample is None:
            names = ("gradient_N", "accumulated_N", "moment_N")
            fields: dict[str, Any] = {
                name: None if (x_N := getattr(self, name)) is None else pick(x_N, index) for name in names
            }
            # bound to the parameter: a cycle through self would hold dense gradients until the garbage collector runs
            weights = functools.partial(_weights_at, self.parameter, index)
            self._sample = replace(self, **fields, read_weights=weights)
        return self._sample

    def scores(self, row: Row) -> Scores:
        """Return the scores of this process's entries by a signal, for the selection."""

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
        """Return the hashes that are the scores; None if the signal draws none."""
        return Draw(key=self.key, start=self.start) if DRAW in row.needs else None

    def stretches(self, row: Row) -> Iterator[slice]:
        """Yield the stretch of entries of each chunk of scores."""
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
    """Return a parameter with the tensors by which it is ranked; a contiguous gradient is not copied.

    Args:
        name: the parameter's plain name.
        parameter: the parameter.
        row: the signal's row of the table.
        seed: the seed of the mask's random draws.
        draw: the step, from 0, for which a random mask is drawn.
        scale: the factor by which a GradScaler has multiplied the gradient.
        accumulated_N: see `Ranked`.
        first_moment: the first moment before this step, in the parameter's shape, or None if there is none yet; and the
            formula of the moment after the step.
        gradient: a tensor to use instead of the parameter's gradient.

    Raises:
        ValueError: the gradient can't be ranked; the message names the parameter, except for a part of a sum, see
            `shards_of`.
    """
    gradient = parameter.grad if gradient is None else gradient
    assert gradient is not None
    if gradient.is_sparse:
        raise ValueError(f"the gradient of {name} is sparse, which can't be masked: use dense gradients")
    if gradient.dtype not in DTYPES:
        raise ValueError(f"the gradient of {name} must be float32, bfloat16 or float16, got {gradient.dtype}")
    local_gradient = local(gradient.detach())
    is_drawn = DRAW in row.needs
    start = first_index(gradient) if is_drawn else 0
    if start is None:
        placements = gradient.placements  # type: ignore[attr-defined]
        raise ValueError(f"signal=random needs parameters that are sharded by rows only, {name} is {placements}")
    if is_drawn and gradient.numel() >= MAX_ENTRIES:
        raise ValueError(f"signal=random takes tensors below 2^31 entries, {name} has {gradient.numel()}")
    moment, rule = first_moment or (None, None)
    return Ranked(
        name=name,
        parameter=parameter,
        gradient=local_gradient,
        gradient_N=flat(local_gradient),
        accumulated_N=accumulated_N,
        moment_N=None if moment is None else flat(local(moment)),
        rule=rule,
        scale=scale,
        key=keys(seed, draw, name) if is_drawn else (0, 0),
        start=start,
        num_entries=gradient.numel(),
        shards=shards_of(gradient),
    )


def first_nonfinite(parameters: Sequence[Ranked]) -> str | None:
    """Return the name of the first parameter whose gradient holds NaN or Inf on any shard; None if all are finite."""
    return first_nonfinite_tensor({r.name: r.gradient_N for r in parameters}, [r.shards for r in parameters])


def first_nonfinite_tensor(tensors: Mapping[str, Tensor], shards: Sequence[ProcessGroups | None] = ()) -> str | None:
    """Return the name of the first tensor that holds NaN or Inf on any shard; None if all are finite.

    Args:
        tensors: this process's parts of the tensors, by name.
        shards: for each tensor, the processes that hold the other parts.
    """
    if not tensors:
        return None
    # A norm is cheap. It is also infinite for huge finite values, so tensors with such a norm are checked by entries.
    parts = list(tensors.values())
    norms = torch._foreach_norm(parts, dtype=torch.float32)
    is_nonfinite = torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().logical_not()
    for i in is_nonfinite.nonzero().flatten().tolist():
        is_nonfinite[i] = bool(parts[i].isfinite().all().logical_not())
    counts = is_nonfinite.to(torch.int64)
    for processes in dict.fromkeys(group for group in shards if group is not None):
        processes.sum_(counts)  # once for each set of processes: only whether a count is zero matters
    return next((name for name, count in zip(tensors, counts.tolist(), strict=True) if count), None)

"""The table of signals: how each signal scores entries, and which tensors it needs.

All code that works with any signal (settings, engine, refusals, tests, docs) reads this table. torch is imported only
to compute scores, so that settings can be checked without it.

Shape suffixes: N entries of a parameter on this process, flattened; T tokens of a batch; F features of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gmt.masking.trial import MomentRule

GRADIENT, FIRST_MOMENT, DRAW = "gradient", "first_moment", "draw"
INPUTS, OUTPUTS = "inputs", "outputs"  # of the linear layer that owns a parameter, summed over tokens
_SMALLEST_WEIGHT = 1e-8  # so that a weight of zero has a finite score
SUM = "sum"  # a sum over the gradients of the steps since the mask was last chosen


@runtime_checkable
class Signal(Protocol):
    """A plug-in that scores entries: a frozen dataclass whose fields are its settings."""

    def score(self, weight_N: Tensor, gradient_N: Tensor) -> Tensor:
        """Return a score for each entry; its magnitude ranks the entry, and an entry with score zero is never kept.

        The method is called with some of a parameter's entries at a time, so each score must depend on its own entry
        only.

        Args:
            weight_N: entries of a parameter, flattened; must not be changed.
            gradient_N: the gradients of the same entries, as the optimizer sees them; must not be changed.

        Returns:
            A finite score for each entry, in any float dtype.
        """
        ...


@runtime_checkable
class MatrixSignal(Protocol):
    """A plug-in that scores a whole parameter at once; if it is a `Signal` too, only `score_matrix` is called.

    A `Signal` or a `MatrixSignal` may have a property `reads_gradient`; False says that its scores depend on the
    weights only.
    """

    def score_matrix(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return a score for each entry, as `Signal.score` does; called once whenever the mask is chosen.

        Args:
            weight: the parameter, in its shape; must not be changed.
            gradient: its gradient, as the optimizer sees it; must not be changed.

        Returns:
            Finite scores in the parameter's shape, in any float dtype.
        """
        ...


@runtime_checkable
class ChecksShapes(Protocol):
    """An optional part of MatrixSignal: the signal can't score parameters of every shape."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for a shape that can't be scored; called for each parameter when the mask is attached.

        The mask adds the parameter's name to the error.
        """
        ...


class Entries(Protocol):
    """The entries of a parameter at a step, as a signal reads them; see Ranked in parameters.py."""

    gradient_N: Tensor
    accumulated_N: Tensor | None
    moment_N: Tensor | None
    rule: MomentRule | None
    scale: float
    key: tuple[int, int]
    start: int
    whole_N: Tensor | None
    activity: Tensor | None

    @property
    def shape(self) -> torch.Size:
        """The parameter's shape."""
        ...

    @property
    def weight_N(self) -> Tensor:
        """The weights, for reading only."""
        ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """A signal.

    Args:
        name: the signal's name in settings.
        meaning: the score in words, for the docs.
        score: returns the scores of a stretch of a parameter's entries; float, or int32 bits for a draw.
        needs: what the engine must provide besides weights: `gradient`, `first_moment`, `draw`, `sum`, `inputs`,
            `outputs`.
        ranks_zeros: whether entries with score zero are ranked and may be kept; if not, they are always masked.
        shows_nonfinite_gradients: whether NaN or Inf in this step's gradient leads to a score that is NaN or Inf.
        is_view: whether the scores are entries of an existing tensor, and not computed.
        whole: returns the scores of all entries of a parameter, float32 of shape [N], for a signal that can't score a
            stretch by itself. They are computed once whenever the mask is chosen; `score` then reads them.
        of_token: returns what each token adds to the sum over inputs or outputs, from float32 of shape [T, F].
        blind_grains: the grains at which all units of a matrix would have the same score.
        add: for a signal that needs a sum: adds a gradient to the sum, in place; its arguments are the sum, the
            gradient, and the factor by which a GradScaler has multiplied the gradient.
    """

    name: str
    meaning: str
    score: Callable[[Entries, slice], Tensor]
    needs: frozenset[str] = frozenset()
    ranks_zeros: bool = False
    shows_nonfinite_gradients: bool = False
    is_view: bool = False
    whole: Callable[[Entries], Tensor] | None = None
    of_token: Callable[[Tensor], Tensor] | None = None
    blind_grains: tuple[str, ...] = ()
    add: Callable[[Tensor, Tensor, float], object] | None = None

    @property
    def needs_activations(self) -> bool:
        """Whether the engine must watch the model's forward passes."""
        return not self.needs.isdisjoint((INPUTS, OUTPUTS))

    @property
    def reads_gradient(self) -> bool:
        """Whether the scores depend on the gradients of this step, alone or with other tensors."""
        return not self.needs.isdisjoint((GRADIENT, FIRST_MOMENT, SUM))

    @property
    def needs_every_step(self) -> bool:
        """Whether the scores are sums over steps, including steps at which no mask is chosen."""
        return not self.needs.isdisjoint((FIRST_MOMENT, SUM, INPUTS, OUTPUTS))


def row_of(signal: str | Signal | MatrixSignal) -> Row:
    """Return a signal's row of the table; for a plug-in, a new row."""
    if isinstance(signal, str):
        return TABLE[signal]
    name = type(signal).__name__
    needs = frozenset([GRADIENT] if getattr(signal, "reads_gradient", True) else [])
    if isinstance(signal, MatrixSignal):
        whole = partial(_score_matrix, signal)
        return Row(name=name, meaning="a plug-in", score=_of_whole, needs=needs, whole=whole)
    return Row(name=name, meaning="a plug-in", score=partial(_score, signal), needs=needs)


def _score(signal: Signal, r: Entries, part: slice) -> Tensor:
    gradient_N = r.gradient_N[part]
    return _checked(signal.score(r.weight_N[part], gradient_N), gradient_N, f"{type(signal).__name__}.score")


def _score_matrix(signal: MatrixSignal, r: Entries) -> Tensor:
    weight, gradient = r.weight_N.view(r.shape), r.gradient_N.view(r.shape)
    scores = signal.score_matrix(weight, gradient)
    return _checked(scores, gradient, f"{type(signal).__name__}.score_matrix").view(-1)


def _checked(scores: Tensor, gradient: Tensor, caller: str) -> Tensor:
    if scores.shape != gradient.shape or scores.is_complex():
        raise ValueError(
            f"signal: {caller} must give one number for each of {gradient.numel()} entries, got {scores.dtype} of "
            f"shape {tuple(scores.shape)}"
        )
    return scores.detach().float().contiguous()


def _of_whole(r: Entries, part: slice) -> Tensor:
    assert r.whole_N is not None
    return r.whole_N[part]


def _sum(r: Entries, part: slice) -> Tensor:
    return r.gradient_N[part] if r.accumulated_N is None else r.accumulated_N[part]


def _random(r: Entries, part: slice) -> Tensor:
    from gmt.masking.random_bits import random_bits

    return random_bits(part.stop - part.start, r.key, start=r.start + part.start, device=r.gradient_N.device)


def _first_moment(r: Entries, part: slice) -> Tensor:
    assert r.rule is not None
    moment_N = r.gradient_N[part].float() * (r.rule.gain / r.scale)
    if r.moment_N is not None:
        moment_N += r.moment_N[part].float() * r.rule.decay
    if r.rule.pull:
        moment_N += r.weight_N[part].float() * r.rule.pull
    return moment_N


def _activity(r: Entries) -> Tensor:
    assert r.activity is not None
    return r.activity


def _squares(r: Entries, part: slice) -> Tensor:
    if r.accumulated_N is not None:
        return r.accumulated_N[part]
    return (r.gradient_N[part].float() / r.scale).square_()


def _rank_sums(r: Entries) -> Tensor:
    """Return the signal large_gradient_small_weight; zero where the gradient is zero.

    Ranks count from 1; equal values are ranked in the order of their indices.
    """
    import torch

    num = len(r.gradient_N)
    score_N = torch.zeros(num, dtype=torch.float64, device=r.gradient_N.device)
    rank_N = torch.arange(1, num + 1, dtype=torch.float64, device=r.gradient_N.device)
    for x_N, descending in ((r.gradient_N, False), (r.weight_N, True)):
        score_N[x_N.abs().sort(stable=True, descending=descending).indices] += rank_N
    return (score_N / (2 * num)).float().mul_(r.gradient_N != 0)


_ROWS = (
    Row(
        name="gradient",
        meaning="the gradient that the optimizer sees",
        score=lambda r, part: r.gradient_N[part],
        needs=frozenset([GRADIENT]),
        shows_nonfinite_gradients=True,
        is_view=True,
    ),
    Row(
        name="accumulated_gradient",
        meaning="the sum of these gradients since the mask was last made",
        score=_sum,
        needs=frozenset([SUM]),
        is_view=True,
        add=lambda sum_N, gradient_N, scale: sum_N.add_(gradient_N, alpha=1 / scale),
    ),
    Row(
        name="random",
        meaning="a uniform draw at every refresh",
        score=_random,
        needs=frozenset([DRAW]),
        ranks_zeros=True,
    ),
    Row(
        name="first_moment",
        meaning="the optimizer's first moment as it is after this step",
        score=_first_moment,
        needs=frozenset([FIRST_MOMENT]),
        shows_nonfinite_gradients=True,
    ),
    Row(
        name="weight_magnitude",
        meaning="the weight",
        score=lambda r, part: r.weight_N[part],
        ranks_zeros=True,
        is_view=True,
    ),
    Row(
        name="weight_times_gradient",
        meaning="the weight times the gradient, the first-order saliency",
        score=lambda r, part: r.weight_N[part].float() * r.gradient_N[part].float(),
        needs=frozenset([GRADIENT]),
        shows_nonfinite_gradients=True,
    ),
    Row(
        name="squared_gradient",
        meaning="the sum of squared gradients since the mask was last made, SPT's sensitivity (arXiv 2303.08566)",
        score=_squares,
        needs=frozenset([SUM]),
        add=lambda sum_N, gradient_N, scale: sum_N.add_((gradient_N.float() / scale).square_()),
    ),
    Row(
        name="gradient_over_weight",
        meaning="the magnitude of the gradient over that of the weight plus 1e-8 (GEM, arXiv 2508.16191; "
        "GaLLoP, arXiv 2510.19778)",
        score=lambda r, part: r.gradient_N[part].float().abs() / (r.weight_N[part].float().abs() + _SMALLEST_WEIGHT),
        needs=frozenset([GRADIENT]),
        shows_nonfinite_gradients=True,
    ),
    Row(
        name="large_gradient_small_weight",
        meaning="the entry's rank among the parameter's gradients from the smallest, plus its rank among the weights "
        "from the largest, over twice the number of entries (ours)",
        score=_of_whole,
        needs=frozenset([GRADIENT]),
        whole=_rank_sums,
    ),
    Row(
        name="weight_times_input",
        meaning="the weight times the norm of its input feature over the tokens since the mask was last made (Wanda, "
        "arXiv 2306.11695)",
        score=_of_whole,
        needs=frozenset([INPUTS]),
        ranks_zeros=True,
        whole=lambda r: (r.weight_N.view(r.shape).float() * _activity(r).sqrt().float()).view(-1),
        of_token=lambda x_TF: x_TF.square(),
    ),
    Row(
        name="output_magnitude",
        meaning="the sum of magnitudes of its row's output over the tokens since the mask was last made (MIGU, arXiv "
        "2406.17245)",
        score=_of_whole,
        needs=frozenset([OUTPUTS]),
        ranks_zeros=True,
        whole=lambda r: _activity(r).float().expand(r.shape).reshape(-1),
        of_token=lambda x_TF: x_TF.abs(),
        blind_grains=("column", "head"),  # heads of an output projection are columns
    ),
)
TABLE = {row.name: row for row in _ROWS}

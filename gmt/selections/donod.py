"""Chooses the examples whose gradient step changes the output layer least."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.selections.completion import loss_of
from gmt.selections.fraction import check_fraction, number_of, ordered
from gmt.selections.protocol import Choice, Measures
from gmt.tasks.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Donod:
    """DONOD (arXiv 2504.14810): ranks examples by two norms of the output layer W around a step on one example.

    With W' = W - step_size * gradient of the example's loss, the norms are the delta of norm DON = |W| - |W'| and the
    norm of the delta NOD = |W - W'|, both of Frobenius. TOPSIS ranks by both: it divides each by its norm over all
    examples, and scores an example by its distance to the worst pair over the sum of its distances to the worst and to
    the best pair, in [0, 1]. A small NOD is best. The authors published no code, and the paper leaves open whether they
    favour a large or a small DON, and by which step, so both are settings. Departures: if the embedding shares the
    weight, only the gradient of the output layer counts; and the step is one of plain gradient descent.

    Args:
        name: the selection's name in tables.
        step_size: the size of the step, above 0; NOD is proportional to it, and DON nearly so.
        don: `largest` favours examples that shrink the weight's norm, `smallest` examples that let it grow.
        fraction: the fraction of the fitting examples to choose, in (0, 1]; the paper takes 0.2 to 0.3.
    """

    name: str
    step_size: float
    don: str
    fraction: float

    needs_gradients = True

    def __post_init__(self) -> None:
        settings.number("selection.step_size", self.step_size, "must be above 0", low=0, open_low=True)
        settings.one_of("selection.don", self.don, ("largest", "smallest"))
        check_fraction(self.fraction)

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """The two norms and the size of the step."""
        return {"measure": "DON and NOD of the output layer", "step_size": self.step_size}

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], tuple[float, float]]:
        """Return the function that measures an example's DON and NOD.

        Raises:
            UserError: the model has no output layer, or the layer has no floating-point weight.
        """
        layer: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        weight = getattr(layer, "weight", None)
        if weight is None or not weight.is_floating_point():
            raise UserError(
                f"selection.name={self.name} must have a model with an output layer whose weight has gradients, got "
                f"one of type {model.config.model_type}"
            )

        def measure(example: Tokens) -> tuple[float, float]:
            import torch

            with _gradient_of(layer, weight):
                (gradient,) = torch.autograd.grad(loss_of(model, example), weight)
            return don_and_nod(weight.detach(), gradient, self.step_size)

        return measure

    def number(self, examples: Sequence[Tokens]) -> int:
        """Return the number that is nearest to the fraction."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Choose the examples that are closest to the best pair."""
        dons = [don if self.don == "largest" else -don for don, _ in measures]
        scores = topsis([dons, [-nod for _, nod in measures]])
        return Choice(indices=ordered(scores, largest=True)[: self.number(examples)], scores=scores)


def don_and_nod(weight: Tensor, gradient: Tensor, step_size: float) -> tuple[float, float]:
    """Return |W| - |W'| and |W - W'| for W' = W - step_size * gradient, without the rounding of a stored W'.

    Args:
        weight: a tensor W of any shape and float dtype.
        gradient: a tensor of the same shape.
        step_size: the size of the step, above 0.
    """
    w, g = weight.double().flatten(), gradient.double().flatten()
    norm, delta = float(w.norm()), step_size * float(g.norm())
    shrinks = 2 * step_size * float(w.dot(g)) - delta**2  # |W|^2 - |W'|^2
    after = math.sqrt(max(norm**2 - shrinks, 0.0))
    return shrinks / (norm + after) if norm + after else 0.0, delta


def topsis(criteria: Sequence[Sequence[float]]) -> list[float]:
    """Return each alternative's closeness to the best, in [0, 1], by TOPSIS (Hwang and Yoon, 1981) with equal weights.

    Args:
        criteria: for each criterion, a number for each alternative; larger numbers are better.
    """
    scaled = []
    for values in criteria:
        norm = math.sqrt(math.fsum(value * value for value in values)) or 1.0
        scaled.append([value / norm for value in values])
    best, worst = [max(values) for values in scaled], [min(values) for values in scaled]
    closeness = []
    for alternative in zip(*scaled, strict=True):
        to_best, to_worst = math.dist(alternative, best), math.dist(alternative, worst)
        closeness.append(to_worst / (to_best + to_worst) if to_best + to_worst else 1.0)
    return closeness


@contextmanager
def _gradient_of(layer: nn.Module, weight: Tensor) -> Iterator[None]:
    """Compute gradients in one layer only: the model below it runs without them."""
    import torch

    def from_here(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        torch.set_grad_enabled(True)
        return tuple(tensor.detach() for tensor in inputs)

    needed = weight.requires_grad
    hook = layer.register_forward_pre_hook(from_here)
    try:
        with torch.no_grad():  # also restores the mode that the hook has changed
            weight.requires_grad_(True)
            yield
    finally:
        hook.remove()
        weight.requires_grad_(needed)

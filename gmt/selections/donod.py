"""The examples that change the output layer least, by one step of gradient descent on each alone."""

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

    With W' = W - step_size * gradient of the example's loss: the delta of norm DON = |W| - |W'|, and the norm of the
    delta NOD = |W - W'|, both of Frobenius. TOPSIS ranks by both: each is divided by its norm over all examples, and an
    example's score is its distance to the worst pair over the sum of its distances to the worst and to the best pair,
    in [0, 1]. A small NOD is best. Whether the authors favour a large DON or a small one, and by which step, is
    disputed (there is no code of theirs), so both are settings. Departures: only the output layer's own use of its
    weight counts where the embedding shares it, and the step is one of plain gradient descent.

    Args:
        name: the word for it in tables.
        step_size: of the step, above 0; NOD is proportional to it, and so is DON nearly.
        don: `largest` favours examples that shrink the weights, `smallest` those that let them grow.
        fraction: of the examples that fit, in (0, 1]; the paper takes 0.2 to 0.3.
    """

    name: str
    step_size: float
    don: str
    fraction: float

    needs_gradients = True

    def __post_init__(self) -> None:
        settings.text("selection.name", self.name)
        settings.number("selection.step_size", self.step_size, "must be above 0", low=0, open_low=True)
        settings.one_of("selection.don", self.don, ("largest", "smallest"))
        check_fraction(self.fraction)

    @property
    def measured_by(self) -> Mapping[str, Any]:
        """By the step."""
        return {"measure": "DON and NOD of the output layer", "step_size": self.step_size}

    def measurer(self, model: PreTrainedModel) -> Callable[[Tokens], tuple[float, float]]:
        """Measure DON and NOD.

        Raises:
            UserError: the model has no output layer with a weight that has gradients.
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
        """Return the fraction of the examples."""
        return number_of(self.fraction, len(examples))

    def choose(self, examples: Sequence[Tokens], measures: Sequence[Measures], *, seed: int) -> Choice:
        """Rank by closeness to the best pair."""
        dons = [don if self.don == "largest" else -don for don, _ in measures]
        scores = topsis([dons, [-nod for _, nod in measures]])
        return Choice(indices=ordered(scores, largest=True)[: self.number(examples)], scores=scores)


def don_and_nod(weight: Tensor, gradient: Tensor, step_size: float) -> tuple[float, float]:
    """Return |W| - |W'| and |W - W'| for W' = W - step_size * gradient, without the rounding of a stored W'.

    Args:
        weight: of any shape and float dtype.
        gradient: of its shape.
        step_size: above 0.
    """
    w, g = weight.double().flatten(), gradient.double().flatten()
    norm, delta = float(w.norm()), step_size * float(g.norm())
    shrinks = 2 * step_size * float(w.dot(g)) - delta**2  # |W|^2 - |W'|^2
    after = math.sqrt(max(norm**2 - shrinks, 0.0))
    return shrinks / (norm + after) if norm + after else 0.0, delta


def topsis(criteria: Sequence[Sequence[float]]) -> list[float]:
    """Return the closeness of alternatives to the best, in [0, 1], by TOPSIS (Hwang and Yoon, 1981) with equal weights.

    Args:
        criteria: by criterion, a number for each alternative, of which more is better.
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
    """Let only a layer's use of its weight have gradients: the model below it is computed without."""
    import torch

    def from_here(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        torch.set_grad_enabled(True)
        return tuple(each.detach() for each in inputs)

    needed = weight.requires_grad
    hook = layer.register_forward_pre_hook(from_here)
    try:
        with torch.no_grad():  # puts back what the hook has set
            weight.requires_grad_(True)
            yield
    finally:
        hook.remove()
        weight.requires_grad_(needed)

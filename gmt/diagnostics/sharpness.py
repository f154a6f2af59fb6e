"""Sharpness: how much the training loss rises within a small box around the trained weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.diagnostics.protocol import Row, Shown
from gmt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from gmt.diagnostics.finished import FinishedRun

WHERE = ("all", "moved", "unmoved")


@dataclass(frozen=True, kw_only=True)
class Sharpness:
    """Adaptive sharpness of the training loss, in nats a token, after Andriushchenko et al., arXiv 2302.07011: entries
    move by at most `rho` of their own magnitude. Rows, each a mean over batches of the first training examples:

    loss: the loss of the trained model.
    worst_case: max over |delta| <= rho |w| of L(w + delta) - L(w), by gradient ascent for each batch.
    average_case: mean of L(w + rho |w| n) - L(w), n standard normal.

    `where: moved` perturbs only the entries that the training moved, `unmoved` only the others; the rows are then named
    worst_case_moved and so on, and left out if there are no such entries. Departures from the authors' code: logits are
    not normalised, and the ascent starts at delta = 0. The diagnostic computes in float32, and needs eight times the
    memory of the weights in this type.

    Args:
        name: the diagnostic's name in tables.
        rho: the half width of the box, as a fraction of each weight, at least 0.
        where: a list of all, moved, unmoved.
        num_examples: the number of training examples; all if there are fewer.
        batch_size: the number of examples in a batch, whose loss is the mean over their tokens.
        steps: the number of steps of the ascent, for each batch.
        draws: the number of draws of the noise, for each batch.
        seed: the seed of the noise.
    """

    name: str
    rho: float
    where: Sequence[str]
    num_examples: int
    batch_size: int
    steps: int
    draws: int
    seed: int

    needs_weights = True

    def __post_init__(self) -> None:
        settings.number("diagnostic.rho", self.rho, "must be at least 0", low=0)
        if not isinstance(self.where, list | tuple) or not self.where or len(set(self.where)) < len(self.where):
            raise UserError(f"diagnostic.where must be a list of {', '.join(WHERE)}, each once, got {self.where!r}")
        for place in self.where:
            settings.one_of("each of diagnostic.where", place, WHERE)
        for setting in ("num_examples", "batch_size", "steps", "draws"):
            settings.integer(f"diagnostic.{setting}", getattr(self, setting), low=1)
        settings.integer("diagnostic.seed", self.seed, low=0)

    @property
    def shown(self) -> Shown:
        """A panel for the worst and the average case of each entry of `where`."""
        words = {"all": "", "moved": ", moved entries only", "unmoved": ", unmoved entries only"}
        panels = {
            _row_name(case, place): f"{case.replace('_', ' ')} rise of the loss, nats a token{words[place]}"
            for place in self.where
            for case in ("worst_case", "average_case")
        }
        return Shown(title=f"Sharpness at rho = {self.rho:g}", panels=panels)

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Measure batch by batch.

        Raises:
            UserError: the run trains on preferences or packed rows, or its loss is NaN or Inf.
        """
        import torch

        if run.train.paradigm != "sft" or run.train.packing:
            raise UserError("sharpness is measured for train.paradigm=sft without packing only")
        model, base = run.tuned_model(), run.base()
        moved = [w.detach() != base[name].to(w) for name, w in model.named_parameters()]
        # a rounding step of bfloat16 is larger than most perturbations here
        model.to(torch.float32)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        batches = list(self._batches(run))
        sums: dict[str, float] = {}
        passes = len(batches) * len(self.where) * (self.steps + self.draws)
        counted = count()

        def on_pass() -> None:
            run.on_progress(min(next(counted), passes), passes)

        for batch in batches:
            for name, value in self._batch_values(model, moved, batch, on_pass).items():
                sums[name] = sums.get(name, 0.0) + value
        for name, value in sums.items():
            yield Row(name=name, value=value / len(batches))

    def _batches(self, run: FinishedRun) -> Iterator[Mapping[str, Any]]:
        from gmt.training.paradigms import collator

        examples, collate = run.examples(), collator(run.train, run.reader().tokenizer)
        number = min(self.num_examples, len(examples))
        for first in range(0, number, self.batch_size):
            rows = [examples[i] for i in range(first, min(first + self.batch_size, number))]
            yield {key: value.to(run.device) for key, value in collate(rows).items()}

    def _batch_values(
        self, model: PreTrainedModel, moved: Sequence[Tensor], batch: Mapping[str, Any], on_pass: Callable[[], None]
    ) -> dict[str, float]:
        import torch

        from gmt.diagnostics.ascent import largest_rise, mean_rise

        def loss() -> Tensor:
            on_pass()
            value: Tensor = model(**batch).loss
            return value

        with torch.no_grad():
            values = {"loss": loss().item()}
        if not math.isfinite(values["loss"]):
            raise UserError(f"sharpness needs a finite loss on the training examples, got {values['loss']}")
        weights = list(model.parameters())
        for place in self.where:
            chosen = _chosen(moved, place)
            if not any(bool(entries.any()) for entries in chosen):
                continue
            bounds = [self.rho * w.detach().abs() * entries for w, entries in zip(weights, chosen, strict=True)]
            generator = torch.Generator().manual_seed(self.seed)
            values[_row_name("worst_case", place)] = largest_rise(loss, weights, bounds, self.steps)
            values[_row_name("average_case", place)] = mean_rise(loss, weights, bounds, self.draws, generator)
        return values


def _chosen(moved: Sequence[Tensor], place: str) -> list[Tensor]:
    if place == "all":
        return [entries.new_ones(()) for entries in moved]
    return list(moved) if place == "moved" else [~entries for entries in moved]


def _row_name(case: str, place: str) -> str:
    return case if place == "all" else f"{case}_{place}"

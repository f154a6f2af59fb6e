"""The changes of training, parameter by parameter: memory holds one parameter of each run at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from gmt.diagnostics.finished import FinishedRun

_LAYER = re.compile(r"(?:^|(?<=\.))\d+(?=\.)")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One parameter before and after training.

    Args:
        layer, matrix: the parameter's place, as in a `Row`.
        base, tuned: tensors of one shape, in the dtype of the training, on the run's device.
    """

    layer: int | None
    matrix: str
    base: Tensor
    tuned: Tensor

    @property
    def delta(self) -> Tensor:
        """The difference, in float32."""
        return self.tuned.float() - self.base.float()


def changes(run: FinishedRun) -> Iterator[Change]:
    """Yield every parameter of a run, and call the run's `on_progress` after each.

    Raises:
        UserError: the run stored no weights, the weights have changed, or they lack a parameter of the base.
    """
    base, tuned = run.base(), run.tuned()
    for number, name in enumerate(base, start=1):
        yield _change(run, name, base[name], tuned[name])
        run.on_progress(number, len(base))


def changes_of_both(one: FinishedRun, other: FinishedRun) -> Iterator[tuple[Change, Change]]:
    """Yield every parameter of two runs of one base, and call the first run's `on_progress` after each."""
    base, tuned, tuned_other = one.base(), one.tuned(), other.tuned()
    for number, name in enumerate(base, start=1):
        yield _change(one, name, base[name], tuned[name]), _change(one, name, base[name], tuned_other[name])
        one.on_progress(number, len(base))


def _change(run: FinishedRun, name: str, base: Tensor, tuned: Tensor) -> Change:
    layer, matrix = place_of(name)
    on_device = tuned.to(run.device)
    return Change(layer=layer, matrix=matrix, base=base.to(on_device), tuned=on_device)


def place_of(name: str) -> tuple[int | None, str]:
    """Return a parameter's layer and matrix, e.g. 3 and `model.layers.*.mlp.up_proj.weight`; both identify it."""
    number = _LAYER.search(name)
    if number is None:
        return None, name
    return int(number.group()), f"{name[: number.start()]}*{name[number.end() :]}"

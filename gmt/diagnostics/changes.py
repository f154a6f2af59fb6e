"""What training changed, parameter by parameter: no more than one parameter of each run is in memory at a time."""

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
        layer, matrix: as of a `Row`.
        base, tuned: of one shape and in the dtype of the training, on the run's device.
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
    """Yield every parameter of a run; tells the run's `on_progress` of each.

    Raises:
        UserError: the run has no weights, or not those of its base.
    """
    base, tuned = run.base(), run.tuned()
    for number, name in enumerate(base, start=1):
        yield _change(run, name, base[name], tuned[name])
        run.on_progress(number, len(base))


def changes_of_both(one: FinishedRun, other: FinishedRun) -> Iterator[tuple[Change, Change]]:
    """Yield every parameter of two runs of one base; tells the first one's `on_progress` of each."""
    base, tuned, tuned_other = one.base(), one.tuned(), other.tuned()
    for number, name in enumerate(base, start=1):
        yield _change(one, name, base[name], tuned[name]), _change(one, name, base[name], tuned_other[name])
        one.on_progress(number, len(base))


def _change(run: FinishedRun, name: str, base: Tensor, tuned: Tensor) -> Change:
    layer, matrix = place_of(name)
    on_device = tuned.to(run.device)
    return Change(layer=layer, matrix=matrix, base=base.to(on_device), tuned=on_device)


def place_of(name: str) -> tuple[int | None, str]:
    """Return a parameter's layer and matrix, e.g. 3 and `model.layers.*.mlp.up_proj.weight`; both give the name."""
    found = _LAYER.search(name)
    if found is None:
        return None, name
    return int(found.group()), f"{name[: found.start()]}*{name[found.end() :]}"

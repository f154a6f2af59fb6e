"""The drift of a trained model from its base: norm and spectrum of weights, and activations on prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.diagnostics.prompts import PARTS, run_prompts, spread
from gmt.diagnostics.protocol import Row, Shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gmt.diagnostics.changes import Change
    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Drift of every parameter. D is the change of a parameter, and W0 its value in the base. Rows:

    delta_norm, relative_norm: the Frobenius norm of D, and this norm divided by the norm of W0.
    For matrices, if D is not 0: singular_value_1, ...: the largest singular values of D; effective_rank (Roy and
    Vetterli, 2007); stable_rank, ||D||_F^2 / sigma_1^2. Experts that share one tensor have norms only.
    csd_source, csd_target: for each linear module, E||D h||^2 / E||W0 h||^2 over all tokens h that reach the module in
    the base, from prompts of the task's source and target suites ("capability-conditioned spectral drift", PEFT-Arena,
    arXiv 2605.28819). Departure: prompts of one length share a forward pass, without padding and in float32.

    Args:
        name: the diagnostic's name in tables.
        num_singular_values: the number of singular values of each matrix to record.
        num_prompts: the number of prompts of each part, evenly spread over all of them; 0 leaves activations out.
        batch_size: the most prompts in a forward pass.
    """

    name: str
    num_singular_values: int
    num_prompts: int
    batch_size: int

    needs_weights = True
    shown = Shown(
        title="Drift from the base",
        panels={
            "relative_norm": "norm of the change / norm of the base's matrix",
            "effective_rank": "effective rank of the change",
            "csd_source": "activation drift on source prompts",
            "csd_target": "activation drift on target prompts",
        },
    )

    def __post_init__(self) -> None:
        settings.integer("diagnostic.num_singular_values", self.num_singular_values, low=0)
        settings.integer("diagnostic.num_prompts", self.num_prompts, low=0)
        settings.integer("diagnostic.batch_size", self.batch_size, low=1)

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Measure the weights, then the activations."""
        from gmt.diagnostics.changes import changes

        for change in changes(run):
            for name, value in self._weight_values(change).items():
                yield Row(layer=change.layer, matrix=change.matrix, name=name, value=value)
        if self.num_prompts:
            yield from self._activation_rows(run)

    def _weight_values(self, change: Change) -> dict[str, float]:
        from gmt.diagnostics.spectrum import effective_rank, singular_values, stable_rank

        delta = change.delta
        norm, base_norm = (float(x.double().norm()) for x in (delta, change.base))
        values = {"delta_norm": norm} | ({"relative_norm": norm / base_norm} if base_norm else {})
        if delta.ndim == 2 and norm:
            sigma_R = singular_values(delta)
            values |= {"effective_rank": effective_rank(sigma_R), "stable_rank": stable_rank(sigma_R)}
            first = sigma_R[: self.num_singular_values].tolist()
            values |= {f"singular_value_{i}": value for i, value in enumerate(first, start=1)}
        return values

    def _activation_rows(self, run: FinishedRun) -> Iterator[Row]:
        from gmt.diagnostics.changes import place_of

        model, tuned = run.base_model(), run.tuned()
        for part in PARTS:
            prompts = spread(run.prompts(part), self.num_prompts)
            for name, value in activation_drift(model, tuned, prompts, self.batch_size, run.on_progress).items():
                layer, matrix = place_of(f"{name}.weight")
                yield Row(layer=layer, matrix=matrix, name=f"csd_{part}", value=value)


def activation_drift(model: Any, tuned: Any, prompts: Any, batch_size: int, on_progress: Any) -> dict[str, float]:
    """Return E||D h||^2 / E||W0 h||^2 by linear module; modules without tokens or with zero output are left out.

    Args:
        model: the base, which does not change.
        tuned: the trained weights, by parameter name.
        prompts: token ids.
        batch_size: the most prompts in a forward pass, which have one length.
        on_progress: called with the number of prompts done and of all prompts.
    """
    from gmt.diagnostics.linear_modules import linear_modules

    sums: dict[str, Tensor] = {}
    modules = linear_modules(model, tuned)
    hooks = [m.register_forward_pre_hook(_sum_hook(name, tuned, sums)) for name, m in modules.items()]
    try:
        run_prompts(model, prompts, batch_size, on_progress)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: float(moved / whole) for name, (moved, whole) in sums.items() if whole}


def _sum_hook(name: str, tuned: Any, sums: dict[str, Tensor]) -> Any:
    """Return a hook that adds ||D h||^2 and ||W0 h||^2 over the tokens of a batch to `sums[name]`, in float64."""
    import torch
    from torch import nn

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        weight: Any = module.weight
        h, base = inputs[0].float(), weight.float()
        delta = tuned[f"{name}.weight"].to(base) - base
        outputs = (h @ w.T if isinstance(module, nn.Linear) else h @ w for w in (delta, base))
        squares = torch.stack([output.double().square().sum() for output in outputs])
        sums[name] = sums.get(name, torch.zeros_like(squares)) + squares

    return add

"""Tuning contribution: the share of fine-tuning in a model's computation for a prompt.

Nuti et al., "TuCo: Measuring the Contribution of Fine-Tuning to Individual Responses of LLMs", arXiv 2506.23423.

Shape suffixes: B prompts of one length, T tokens, D width of the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.diagnostics.prompts import PARTS, run_prompts, spread
from gmt.diagnostics.protocol import Row, Shown
from gmt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class TuningContribution:
    """TuCo on source and target prompts. The trained model's residual stream is x_{l+1} = x_l + PTC_l + FTC_l with
    PTC_l = f_base(x_l), the addition of the base's layer to this x_l, and FTC_l the difference between the trained
    layer's addition and PTC_l.

    Rows: tuco_source and tuco_target, the mean over prompts of ||sum FTC||_1 / (||sum PTC||_1 + ||sum FTC||_1) at the
    last token, in [0, 1]. The value is 0 if training changed no layer: both sums use the trained embedding.

    Args:
        name: the diagnostic's name in tables.
        num_prompts: the number of prompts of each part, evenly spread over all of them.
        batch_size: the most prompts in a forward pass, which have one length.
    """

    name: str
    num_prompts: int
    batch_size: int

    needs_weights = True
    shown = Shown(
        title="Tuning contribution (TuCo)",
        panels={"tuco_source": "share of fine-tuning, source prompts", "tuco_target": "share, target prompts"},
    )

    def __post_init__(self) -> None:
        settings.integer("diagnostic.num_prompts", self.num_prompts, low=1)
        settings.integer("diagnostic.batch_size", self.batch_size, low=1)

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Measure with both models in memory.

        Raises:
            UserError: see `layers_of`.
        """
        base, tuned = run.base_model(), run.tuned_model()
        contributions = Contributions(base, tuned)
        with contributions:
            for part in PARTS:
                run_prompts(tuned, spread(run.prompts(part), self.num_prompts), self.batch_size, run.on_progress)
                if values := contributions.take():
                    yield Row(name=f"tuco_{part}", value=sum(values) / len(values))


class Contributions:
    """Hooks on the layers of a trained model that run the base's layers on the same inputs.

    Args:
        base, tuned: models of one architecture, on one device; the hooks are removed when the `with` block ends.

    Raises:
        UserError: see `layers_of`.
    """

    def __init__(self, base: Any, tuned: Any):
        self._base, self._tuned = layers_of(base), layers_of(tuned)
        self._pretrained: Tensor | None = None
        self._added: Tensor | None = None
        self._hooks: list[Any] = []
        self._values: list[float] = []

    def __enter__(self) -> Contributions:
        for number, layer in enumerate(self._tuned):
            self._hooks.append(layer.register_forward_hook(self._hook(number), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def take(self) -> list[float]:
        """Return the TuCo of each prompt since the last call."""
        values, self._values = self._values, []
        return values

    def _hook(self, number: int) -> Any:
        def add_contribution(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x_BTD = args[0] if args else kwargs["hidden_states"]
            base_BD = _hidden(self._base[number](*args, **kwargs))[:, -1].float()
            pretrained_BD = base_BD - x_BTD[:, -1].float()
            added_BD = _hidden(output)[:, -1].float() - base_BD
            if number == 0:
                self._pretrained, self._added = pretrained_BD, added_BD
            else:
                assert self._pretrained is not None
                assert self._added is not None
                self._pretrained, self._added = self._pretrained + pretrained_BD, self._added + added_BD
            if number == len(self._tuned) - 1:
                self._values += contribution(self._pretrained, self._added)

        return add_contribution


def contribution(pretrained_BD: Tensor, added_BD: Tensor) -> list[float]:
    """Return the TuCo of each prompt from the sums over layers; prompts whose two sums are 0 are left out."""
    base_B, tuning_B = pretrained_BD.abs().sum(dim=1), added_BD.abs().sum(dim=1)
    all_B = base_B + tuning_B
    return [float(value) for value in (tuning_B / all_B)[all_B > 0]]


def layers_of(model: Any) -> Sequence[nn.Module]:
    """Return the layers of a model.

    Raises:
        UserError: the model has no list of as many modules as its config has layers.
    """
    from torch import nn

    number = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return list(module)
    raise UserError(f"tuco needs a model with a list of its {number} layers, and {type(model).__name__} has none")


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden

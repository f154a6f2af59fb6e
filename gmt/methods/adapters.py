"""Adapters: small trained parts in a frozen model, by the peft library. Imports no library until a model is reshaped.

Merged into the model's own weights when the training ends, so that what is evaluated has the base's parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Family:
    """What a family of adapters is called in peft.

    Args:
        config: the class of its settings.
        options: those of its settings that keep what is promised here: begun from a seed alone, merged bit for bit as
            peft merges the saved adapter, the same on several workers. Dropout and beginnings by data or by a matrix's
            singular values do not.
        rank, alpha: what it calls them; None where it has none.
    """

    config: str
    options: tuple[str, ...]
    rank: str | None = None
    alpha: str | None = None


_PLACES = ("exclude_modules", "layers_to_transform", "layers_pattern")
_FAMILIES = {
    "lora": _Family(
        "LoraConfig", ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", *_PLACES), "r", "lora_alpha"
    ),
    "ia3": _Family("IA3Config", ("feedforward_modules", "exclude_modules")),
    "ln_tuning": _Family("LNTuningConfig", ("exclude_modules",)),
}


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """Trains an adapter of peft's and nothing else.

    Args:
        name: the word for it in tables.
        family: lora (Hu et al., arXiv 2106.09685), ia3 (Liu et al., 2205.05638) or ln_tuning (Zhao et al.,
            2312.11420).
        rank: of an adapter's matrices; null for a family that has none.
        alpha: what an adapter's output is scaled by, times 1/rank (rslora: 1/sqrt(rank)); null likewise.
        targets: the modules that get an adapter: `all-linear`, all linear layers but the output's; or a list of names
            or ends of names; null for peft's choice for the model's type.
        options: further settings of the family, by peft's names.
    """

    name: str
    family: str
    rank: int | None
    alpha: float | None
    targets: str | list[str] | None
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        settings.text("method.name", self.name)
        settings.one_of("method.family", self.family, tuple(_FAMILIES))
        family = _FAMILIES[self.family]
        for setting, value, theirs in (("rank", self.rank, family.rank), ("alpha", self.alpha, family.alpha)):
            if theirs is None and value is not None:
                raise UserError(f"method.{setting} must be null for method.family={self.family}, got {value!r}")
        if family.rank is not None:
            settings.integer("method.rank", self.rank, low=1)
        if family.alpha is not None:
            settings.number("method.alpha", self.alpha, "must be above 0", low=0, open_low=True)
        if not (self.targets is None or isinstance(self.targets, str) or _are_texts(self.targets)):
            raise UserError(f"method.targets must be null, a text or a list of texts, got {self.targets!r}")
        if not isinstance(self.options, Mapping):
            raise UserError(f"method.options must be a mapping of settings, got {self.options!r}")
        if wrong := [key for key in self.options if key not in family.options]:
            raise UserError(
                f"method.options has no setting {wrong[0]!r} for method.family={self.family}; "
                f"{choices(wrong[0], family.options)}"
            )

    @property
    def density_asked(self) -> None:
        """Nothing is masked."""
        return

    def reshape(self, model: PreTrainedModel, *, seed: int) -> MergeableAdapter:
        """Freezes the model and puts the adapter in.

        Raises:
            UserError: a setting that peft does not know, modules that the model does not have, or a rank above a
                matrix's.
        """
        from peft import get_peft_model

        config = self._config()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of transformers' old names, and of norms of any class
                adapted = get_peft_model(model, config)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"method.targets={self.targets} and method.options must fit the model: {' '.join(str(error).split())}; "
                f"its linear layers are {', '.join(_linear_layers(model))}"
            ) from error
        self._check_rank(model)
        return MergeableAdapter(adapted)

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Changes nothing: the adapter is in the model."""
        return Unmasked()

    def _config(self) -> Any:
        import peft

        family = _FAMILIES[self.family]
        kind = getattr(peft, family.config)
        ours = {family.rank: self.rank, family.alpha: self.alpha, "target_modules": self.targets}
        values = {key: value for key, value in ours.items() if key is not None}
        try:
            return kind(task_type="CAUSAL_LM", **values, **self.options)
        except (ValueError, TypeError) as error:
            raise UserError(f"method.options must fit {family.config}: {' '.join(str(error).split())}") from error

    def _check_rank(self, model: nn.Module) -> None:
        from peft.tuners.lora import LoraLayer

        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                least, rank = min(layer.get_base_layer().weight.shape), max(layer.r.values())
                if least < rank:
                    raise UserError(f"method.rank must be at most {least}, the smaller side of {name}, got {rank}")


class Unmasked(Dense):
    """A training without a mask at work."""

    def facts(self) -> dict[str, float]:
        """Has none."""
        return {}


class MergeableAdapter:
    """A model with an adapter of peft's in it."""

    def __init__(self, adapted: PeftModel):
        self._adapted = adapted

    def save(self, folder: Path) -> None:
        """Write the adapter as `PeftModel.from_pretrained` reads it."""
        self._adapted.save_pretrained(str(folder), save_embedding_layers=False)

    def restore(self) -> None:
        """Merge the adapter into the weights that it stands at."""
        self._adapted.merge_and_unload()


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and each for each in value)


def _linear_layers(model: nn.Module) -> list[str]:
    from torch import nn

    return sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})

"""Adapters: small trained parts in a frozen model, by the peft library. Imports no library until a model is reshaped.

An adapter is merged into the model's weights when the training ends, so that the evaluated model has the base's
parameters. Adapters that can't be merged are in gmt/methods/prompts.py.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.methods.adapter_beginnings import (
    BEGINNINGS,
    BY_EXAMPLES,
    Batches,
    adapt_by_examples,
    changes_base,
    is_known,
    largest_rank,
)
from gmt.methods.adapter_parts import ConvertedAdapter, MergeableAdapter
from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.reshaped import Reshaped


@dataclass(frozen=True)
class _Family:
    """peft's names for a family of adapters.

    Args:
        config: the name of its config class.
        options: the options that users may set. With these the initial values depend on the seed alone, merging is bit
            for bit what peft does with the saved adapter, and all workers agree; with dropout that would not hold.
        rank, alpha: peft's names for these settings; None if the family has none.
        seed: peft's name for the family's own seed; None if it draws from torch's generator.
    """

    config: str
    options: tuple[str, ...]
    rank: str | None = None
    alpha: str | None = None
    seed: str | None = None


_PLACES = ("exclude_modules", "layers_to_transform", "layers_pattern")
_FAMILIES = {
    "lora": _Family(
        "LoraConfig", ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", *_PLACES), "r", "lora_alpha"
    ),
    "ia3": _Family("IA3Config", ("feedforward_modules", "exclude_modules")),
    "ln_tuning": _Family("LNTuningConfig", ("exclude_modules",)),
    "vera": _Family(
        "VeraConfig", ("d_initial", "layers_to_transform", "layers_pattern"), "r", seed="projection_prng_key"
    ),
    "oft": _Family(
        "OFTConfig",
        ("oft_block_size", "coft", "eps", "block_share", "use_cayley_neumann", "num_cayley_neumann_terms", *_PLACES),
    ),
    "shira": _Family("ShiraConfig", (), "r", seed="random_seed"),
}


@dataclass(frozen=True, kw_only=True)
class PeftAdapter:
    """Trains an adapter of the peft library and nothing else.

    Args:
        name: the name of the method in tables.
        family: lora (Hu et al., arXiv 2106.09685), ia3 (Liu et al., 2205.05638), ln_tuning (Zhao et al., 2312.11420),
            vera (Kopiczko et al., 2310.11454), oft (Qiu et al., 2306.07280) or shira (Bhardwaj et al., 2406.13175).
        rank: the rank of an adapter's matrices; for shira, the number of its entries in a matrix divided by the sum of
            the matrix's sides; null for a family without a rank.
        alpha: an adapter's output is scaled by alpha / rank (rslora: alpha / sqrt(rank)); null for a family without it.
        targets: the modules that get an adapter: `all-linear`, all linear layers except the output layer; or a list of
            names or ends of names; null for peft's choice for the model's type.
        options: further settings of the family, by peft's names.
        beginning: the initialisation of a LoRA (gmt/methods/adapter_beginnings.py); null: a random and a zero matrix.
        num_examples: training rows from which the initialisation is computed; 0 if it reads none.
        beginning_options: settings of the initialisation, by peft's names.
    """

    name: str
    family: str
    rank: int | None
    alpha: float | None
    targets: str | list[str] | None
    options: Mapping[str, Any]
    beginning: str | None = settings.neutral(None)
    num_examples: int = settings.neutral(0)
    beginning_options: Mapping[str, Any] = settings.neutral({})

    def __post_init__(self) -> None:
        settings.one_of("method.family", self.family, tuple(_FAMILIES))
        family = _FAMILIES[self.family]
        for setting, value, peft_name in (("rank", self.rank, family.rank), ("alpha", self.alpha, family.alpha)):
            if peft_name is None and value is not None:
                raise UserError(f"method.{setting} must be null for method.family={self.family}, got {value!r}")
        if family.rank is not None:
            settings.integer("method.rank", self.rank, low=1)
        if family.alpha is not None:
            settings.number("method.alpha", self.alpha, "must be above 0", low=0, open_low=True)
        if not (self.targets is None or isinstance(self.targets, str) or _are_texts(self.targets)):
            raise UserError(f"method.targets must be null, a text or a list of texts, got {self.targets!r}")
        check_options("method.options", self.options, family.options, f"method.family={self.family}")
        self._check_beginning()

    def _check_beginning(self) -> None:
        if self.beginning is not None and self.family != "lora":
            raise UserError(f"method.beginning must be null for method.family={self.family}, got {self.beginning!r}")
        if self.beginning is not None and not is_known(self.beginning):
            raise UserError(
                f"method.beginning must be null, pissa_niter_N or one of {', '.join(BEGINNINGS)}, "
                f"got {self.beginning!r}"
            )
        if changes_base(self.beginning) and self.options.get("use_dora"):
            raise UserError(
                f"method.options.use_dora must be false for method.beginning={self.beginning}, since peft converts no "
                "adapter that has both, got true"
            )
        low = 1 if self.beginning in BY_EXAMPLES else 0
        if settings.integer("method.num_examples", self.num_examples, low=low) and not low:
            raise UserError(
                f"method.num_examples must be 0 for method.beginning={self.beginning}, which reads none, got "
                f"{self.num_examples}"
            )
        known = BY_EXAMPLES.get(self.beginning or "", ("", ()))[1]
        check_options("method.beginning_options", self.beginning_options, known, f"method.beginning={self.beginning}")

    @property
    def target_density(self) -> None:
        """None: the method masks nothing."""
        return

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Freeze the model, and put the adapter in.

        Raises:
            UserError: peft does not know a setting, the model lacks a module or the module can have no adapter, or the
                rank is too large for a matrix.
        """
        from peft import LoraConfig, get_peft_model

        has_weights = not next(model.parameters()).is_meta
        if not has_weights or self.beginning in BY_EXAMPLES:  # only the shape matters
            plain = dataclasses.replace(self, beginning=None, num_examples=0, beginning_options={})
            config: Any = plain._config(seed)
        else:
            config = self._config(seed)
        if self.family == "shira" and not has_weights:  # which peft can't draw without weights
            config = LoraConfig(task_type="CAUSAL_LM", r=1, target_modules=self.targets)
        return self._put_in(model, config, get_peft_model)

    def reshape_by(self, model: PreTrainedModel, *, seed: int, batches: Batches) -> Reshaped:
        """Freeze the model, and put in an adapter whose initial values are computed from examples.

        Raises:
            UserError: as `reshape`; or the examples have too few tokens.
        """
        return self._put_in(model, self._config(seed), lambda model, config: adapt_by_examples(model, config, batches))

    def _put_in(
        self, model: PreTrainedModel, config: Any, put_in: Callable[[PreTrainedModel, Any], PeftModel]
    ) -> Reshaped:
        import torch

        is_converted = changes_base(getattr(config, "init_lora_weights", None))
        linear, originals = _linear_layers(model), _matrices(model) if is_converted else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old names in transformers, and about norms of other classes
                adapted = put_in(model, config)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"method.targets={self.targets}, method.rank and method.options must fit the model: "
                f"{' '.join(str(error).split())}; its linear layers are {', '.join(linear)}"
            ) from error
        if self.family == "shira":
            torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # the default; unset, torch warns
        self._check_layers(model)
        if not is_converted:
            return MergeableAdapter(adapted)
        unadapted = dict(model.named_parameters())  # an adapted layer's weight has another name now
        return ConvertedAdapter(adapted, model, {name: w for name, w in originals.items() if name not in unadapted})

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the adapter is in the model."""
        return Unmasked()

    def _config(self, seed: int) -> Any:
        import peft

        family = _FAMILIES[self.family]
        config_class = getattr(peft, family.config)
        named = {
            family.rank: self.rank,
            family.alpha: self.alpha,
            family.seed: seed,
            "target_modules": self.targets,
        }
        values = {key: value for key, value in named.items() if key is not None} | dict(self.options)
        if self.beginning is not None:
            values["init_lora_weights"] = self.beginning
            if self.beginning in BY_EXAMPLES:
                values[BY_EXAMPLES[self.beginning][0]] = dict(self.beginning_options)
        try:
            return config_class(task_type="CAUSAL_LM", **values)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"method.options and method.beginning_options must fit {family.config}: {' '.join(str(error).split())}"
            ) from error

    def _check_layers(self, model: Any) -> None:
        """Raise UserError if an adapter is smaller than its settings say, or would be evaluated differently."""
        from peft.tuners.oft import OFTLayer
        from peft.tuners.tuners_utils import BaseTunerLayer
        from torch import nn

        num_layers = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
        for name, module in model.named_modules():
            layer: Any = module
            if not isinstance(module, BaseTunerLayer):
                continue
            if module is model.get_output_embeddings():
                raise UserError(
                    f"method.targets must not name {name}, the output layer, since TRL's loss reads its weight alone"
                )
            if any(num_layers[id(p)] > 1 for p in layer.get_base_layer().parameters(recurse=False)):
                raise UserError(
                    f"method.targets must not name {name}, whose weight another layer has too: merging the adapter "
                    "would change both"
                )
            # a trial without weights puts in a LoRA, which also accepts other classes
            if self.family == "shira" and not isinstance(base := layer.get_base_layer(), nn.Linear):
                raise UserError(
                    f"method.targets must name modules of class torch.nn.Linear for method.family=shira, and {name} is "
                    f"a {type(base).__name__}"
                )
            if not hasattr(layer.get_base_layer(), "weight"):
                raise UserError(
                    f"method.targets must name layers of one matrix each, and {name} holds experts in one tensor, got "
                    f"{self.targets}"
                )
            self._check_rank(name, layer)
            size = self.options.get("oft_block_size")
            if isinstance(module, OFTLayer) and size and (fits := layer.oft_block_size["default"]) != size:
                raise UserError(
                    f"method.options.oft_block_size must divide the inputs of {name}, as {fits} does, got {size}"
                )

    def _check_rank(self, name: str, layer: Any) -> None:
        if self.family not in ("lora", "shira"):
            return
        rank, sides = max(layer.r.values()), tuple(layer.get_base_layer().weight.shape)
        if self.family == "shira":  # as many entries as a lora has parameters
            rank, largest = self.rank, math.prod(sides) // sum(sides)
            why = f"since a larger rank takes more entries than {name} has"
        else:
            largest = largest_rank(self.beginning, min(sides))
            why = f"the smaller side of {name}" if largest == min(sides) else f"half of the smaller side of {name}"
        if rank > largest:
            raise UserError(f"method.rank must be at most {largest}, {why}, got {rank}")


class Unmasked(Dense):
    """An attached method without a mask, hooks and facts."""

    def facts(self) -> dict[str, float]:
        """Return no facts."""
        return {}


def check_options(setting: str, options: object, known: Collection[str], owner: str) -> None:
    """Raise UserError if options are not a mapping, or have an unknown key.

    Args:
        setting: the config key of the options.
        options: the options by name.
        known: the known names.
        owner: the setting that the options belong to, with its value, for errors.
    """
    if not isinstance(options, Mapping):
        raise UserError(f"{setting} must be a mapping of settings, got {options!r}")
    if unknown := [key for key in options if key not in known]:
        valid = f"; {choices(unknown[0], known)}" if known else ""
        raise UserError(f"{setting} has no setting {unknown[0]!r} for {owner}{valid}")


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


def _matrices(model: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of the parameters that an adapter may subtract a part from."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.ndim > 1}


def _linear_layers(model: nn.Module) -> list[str]:
    from torch import nn

    return sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)})

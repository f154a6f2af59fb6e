"""Prompt and prefix tuning: trained vectors before each text, by peft. No weights change, so nothing can be merged.

peft wraps the model, and the wrapper's outputs are longer than the text. Instead, hooks put peft's vectors before the
decoder's input here, and cut the decoder's output: it has the same shape as without vectors, and texts of different
lengths can be padded. Imports no library until a model is reshaped.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.methods.adapters import Unmasked, check_options

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

_FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "prompt_tuning": ("PromptTuningConfig", ("prompt_tuning_init",)),
    "prefix_tuning": ("PrefixTuningConfig", ("prefix_projection", "encoder_hidden_size", "init_weights")),
}
_INITS = ("RANDOM", "SAMPLE_VOCAB")  # peft's third choice, TEXT, would need a text
_NUM_TRIED = 8  # tokens of the trial that compares the model with peft's


@dataclass(frozen=True, kw_only=True)
class PeftPrompt:
    """Trains vectors before each text and nothing else.

    Args:
        name: the name of the method in tables.
        family: prompt_tuning, embeddings before those of the text (Lester et al., arXiv 2104.08691), or prefix_tuning,
            keys and values before those of each layer (Li and Liang, 2101.00190).
        num_tokens: the number of positions that the vectors take from the model's context.
        options: further settings of the family, by peft's names.
    """

    name: str
    family: str
    num_tokens: int
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        settings.one_of("method.family", self.family, tuple(_FAMILIES))
        settings.integer("method.num_tokens", self.num_tokens, low=1)
        check_options("method.options", self.options, _FAMILIES[self.family][1], f"method.family={self.family}")
        init = self.options.get("prompt_tuning_init", _INITS[0])
        settings.one_of("method.options.prompt_tuning_init", init, _INITS)

    @property
    def target_density(self) -> None:
        """None: the method masks nothing."""
        return

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Prompt:
        """Freeze the model, and put the vectors in.

        Raises:
            UserError: peft does not know a setting, or peft or this file can't put vectors into this model.
        """
        import peft

        config_class = getattr(peft, _FAMILIES[self.family][0])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = config_class(task_type="CAUSAL_LM", num_virtual_tokens=self.num_tokens, **self.options)
                adapted: Any = peft.get_peft_model(model, config)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"method {self.name} can't work with a model of type {model.config.model_type} and its settings: "
                f"{' '.join(str(error).split())}"
            ) from error
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        prompt = Prompt(adapted, model)
        is_flash = "flash" in str(model.config._attn_implementation)  # flash attention does not run on the CPU
        if not next(model.parameters()).is_meta and not is_flash:
            prompt.check(self.name)
        return prompt

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the vectors are in the model."""
        return Unmasked()


class Prompt:
    """A model with trained vectors before each text.

    Args:
        adapted: peft's model, which wraps `model`.
        model: the model; it gets peft's module with the vectors, and hooks that put them before a text.
    """

    def __init__(self, adapted: PeftModel, model: PreTrainedModel):
        self._adapted: Any = adapted
        self._model = model
        config: Any = adapted.active_peft_config
        self._num_tokens, self._is_prefix = config.num_virtual_tokens, config.peft_type == "PREFIX_TUNING"
        model.add_module("prompt_encoder", self._adapted.prompt_encoder["default"])
        for parameter in self._adapted.prompt_encoder.parameters():
            parameter.requires_grad_(True)
        whole: Any = model
        backbone = whole.get_decoder()
        self._signature = inspect.signature(backbone.forward)
        self._is_on, self._is_longer, self._has_own_cache = True, False, False
        backbone.register_forward_pre_hook(self._prepend, with_kwargs=True)
        backbone.register_forward_hook(self._cut)

    def save(self, folder: Path) -> None:
        """Write the vectors as `PeftModel.from_pretrained` reads them."""
        self._adapted.save_pretrained(str(folder), save_embedding_layers=False)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Leave the vectors out inside the block."""
        self._is_on = False
        try:
            yield
        finally:
            self._is_on = True

    def check(self, method: str) -> None:
        """Compare the model with peft's on a few tokens.

        Raises:
            UserError: their logits differ, or the model's code has no place for the vectors.
        """
        import torch

        model = self._model
        ids = torch.arange(_NUM_TRIED, device=model.device)[None] % model.config.get_text_config().vocab_size
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        was_training = model.training
        model.eval()  # type: ignore[no-untyped-call]
        try:
            with torch.no_grad():
                logits = model(**inputs).logits
                with self.switched_off():
                    peft_logits = self._adapted(**inputs).logits[:, -_NUM_TRIED:]
            is_same = torch.allclose(logits, peft_logits, rtol=1e-3, atol=1e-3)
            fault = None if is_same else "its logits differ from peft's"
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            fault = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        finally:
            model.train(was_training)
        if fault is not None:
            model_type = model.config.model_type
            raise UserError(
                f"method {method} can't put vectors before a text for a model of type {model_type}: {fault}"
            )

    def _prepend(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put the vectors before a text; if the cache has them already, only count their positions."""
        import torch

        self._is_longer = self._has_own_cache = False
        if not self._is_on:
            return None
        arguments = self._signature.bind(*args, **kwargs).arguments
        arguments |= arguments.pop("kwargs", {})
        ids, embeddings, cache = (arguments.get(key) for key in ("input_ids", "inputs_embeds", "past_key_values"))
        text: Any = ids if embeddings is None else embeddings
        mask, positions = arguments.get("attention_mask"), arguments.get("position_ids")
        if mask is not None:
            if getattr(mask, "ndim", None) != 2:
                raise ValueError("an attention mask of tokens is needed, [batch, width]")
            arguments["attention_mask"] = torch.cat([mask.new_ones(len(mask), self._num_tokens), mask], dim=1)
        if positions is not None:
            arguments["position_ids"] = positions + self._num_tokens
        arguments.pop("cache_position", None)
        if cache is None or cache.get_seq_length() == 0:
            self._insert(arguments, text)
        return (), arguments

    def _insert(self, arguments: dict[str, Any], text: Tensor) -> None:
        """Put the vectors into the arguments: as a cache, or as embeddings before those of the text."""
        import torch

        if self._is_prefix:
            self._has_own_cache = arguments.get("past_key_values") is None and not arguments.get("use_cache")
            arguments["past_key_values"] = self._adapted.get_prompt(len(text), max_cache_len=-1)
            return
        embedded: Any = text if text.is_floating_point() else self._model.get_input_embeddings()(text)
        prompt = self._adapted.get_prompt(len(text)).to(embedded.dtype)
        arguments |= {"input_ids": None, "inputs_embeds": torch.cat([prompt, embedded], dim=1)}
        if (positions := arguments.get("position_ids")) is not None:
            first = torch.arange(self._num_tokens, device=positions.device)
            arguments["position_ids"] = torch.cat([first.expand(*positions.shape[:-1], -1), positions], dim=-1)
        self._is_longer = True

    def _cut(self, backbone: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Remove the hidden states of the vectors, and a cache that the caller did not request."""
        if self._is_longer:
            output.last_hidden_state = output.last_hidden_state[:, self._num_tokens :]
        if self._has_own_cache:
            output.past_key_values = None
        return output

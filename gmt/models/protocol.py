"""The protocol of models. Imports no library, so that planning is fast."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class Model(Protocol):
    """The settings of a model: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def name(self) -> str:
        """The model's name in configs, tables and MLflow."""
        ...

    def fingerprint(self) -> str:
        """Return a text that identifies weights and tokenizer, wherever they are stored; part of the run id."""
        ...

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, with a pad token."""
        ...

    def load_config(self) -> PreTrainedConfig:
        """Return the model's config, without loading its weights."""
        ...

    def base(self) -> PreTrainedModel:
        """Return the model on the CPU, in eval mode and in any float dtype; callers share it and must not change it."""
        ...

    def load_model(self) -> PreTrainedModel:
        """Return a new model on the CPU, in eval mode, in the dtype in which it trains."""
        ...


@runtime_checkable
class KnowsItsEnds(Protocol):
    """An optional part of Model: the files name more tokens that end an answer than the end-of-sequence token."""

    def ends(self) -> Collection[int]:
        """Return these tokens; empty if the files name no such token."""
        ...


@runtime_checkable
class HasSkeleton(Protocol):
    """An optional part of Model: it is also made without weights, so that a sweep tries methods before it starts."""

    def skeleton(self) -> PreTrainedModel | None:
        """Return the model with its parameters on the device meta; None if only loading shows the parameters."""
        ...

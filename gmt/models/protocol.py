"""What a model is to the rest of the program. Imports nothing, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class Model(Protocol):
    """The settings of a model: a frozen dataclass that checks its values in `__post_init__`."""

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    def fingerprint(self) -> str:
        """Names the weights and the tokenizer, whatever folder they lie in; enters the run id."""
        ...

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a pad token."""
        ...

    def load_config(self) -> PreTrainedConfig:
        """The model's config, without its weights."""
        ...

    def base(self) -> PreTrainedModel:
        """The model on the CPU, in eval mode and in any float dtype: the same object for everybody, to be read only."""
        ...

    def load_model(self) -> PreTrainedModel:
        """The model in the dtype in which it trains, on the CPU, in eval mode; a fresh one at each call."""
        ...


@runtime_checkable
class KnowsItsEnds(Protocol):
    """An optional part of Model: its files name tokens that end an answer, beside its tokenizer's end of sequence."""

    def ends(self) -> Collection[int]:
        """Return these tokens; none where the files name none."""
        ...


@runtime_checkable
class HasSkeleton(Protocol):
    """An optional part of Model: it can be made without weights, so that a sweep tries methods before it starts."""

    def skeleton(self) -> PreTrainedModel | None:
        """Return the model with its parameters on the device meta; None where only loading can tell its parts."""
        ...

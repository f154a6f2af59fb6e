"""The protocol of models. Imports no library, so that planning costs little."""

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
        """Return a name of the weights and the tokenizer that does not depend on their folder; part of the run id."""
        ...

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, with a pad token."""
        ...

    def load_config(self) -> PreTrainedConfig:
        """Return the model's config, without loading its weights."""
        ...

    def base(self) -> PreTrainedModel:
        """Return the model on the CPU, in eval mode and in any float dtype; all callers share it and must not change
        it."""
        ...

    def load_model(self) -> PreTrainedModel:
        """Return a new model on the CPU, in eval mode, in the dtype in which it trains."""
        ...


@runtime_checkable
class KnowsItsEnds(Protocol):
    """An optional part of Model: its files name tokens that end an answer, beside its tokenizer's end of sequence."""

    def ends(self) -> Collection[int]:
        """Return these tokens; none where the files name none."""
        ...


@runtime_checkable
class HasSkeleton(Protocol):
    """An optional part of Model: it can be made without weights, so that a sweep can try methods before it starts."""

    def skeleton(self) -> PreTrainedModel | None:
        """Return the model with its parameters on the device meta; None if they are known only after loading."""
        ...

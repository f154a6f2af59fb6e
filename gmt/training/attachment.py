"""A method through a training, as a callback of transformers' Trainer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmt.errors import UserError
from gmt.masking.sharding import is_sharded
from gmt.methods.protocol import Attached, CountsEntries, Method
from gmt.methods.source_prompts import Prompts
from gmt.plug_ins import check_protocol
from gmt.training.attaching import attach_method
from gmt.training.checkpoints import fill_adamw_state, save_method
from gmt.training.reshaping import Examples
from gmt.training.structure import Layout, check_layout, layout, unchanged

_TORCH_TYPES = (torch.Tensor, torch.Size, torch.dtype, torch.device)
_FACTS = ("density", "mask_seconds")  # of a mask


class Attachment(TrainerCallback):
    """Attaches the method, tells it of epochs, and keeps its state beside each checkpoint.

    It attaches when the training begins: FSDP2 has then put shards in the place of the weights, and has filled the
    optimizer's state by a step without effect that no mask should count.

    Args:
        method: its settings.
        seed: of its draws.
        facts_every: optimizer steps between facts that take time.
        state: what it goes on from, as `load_method` gives it.
        is_sharded: whether its state is this worker's part.
        source: for a method that reads source prompts.
        examples: of the training, for a method that probes them.
    """

    def __init__(
        self,
        method: Method,
        *,
        seed: int,
        facts_every: int,
        state: dict[str, Any] | None,
        is_sharded: bool,
        source: Prompts | None = None,
        examples: Examples | None = None,
    ):
        self._method = method
        self._source, self._examples = source, examples
        self._seed, self._facts_every = seed, facts_every
        self._state, self._is_sharded = state, is_sharded
        self._attached: Attached | None = None
        self._model: nn.Module | None = None
        self._optimizer: Optimizer | None = None
        self._layout: Layout = {}
        self._has_stepped = False
        self._num_entries = 0  # of the optimizer's parameters

    @property
    def attached(self) -> Attached:
        """The method at work."""
        assert self._attached is not None
        return self._attached

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer itself, without accelerate's wrapper."""
        assert self._optimizer is not None
        return self._optimizer

    def facts(self) -> Mapping[str, float]:
        """Return what happened at the last step.

        Raises:
            UserError: the method does not say what every method must.
        """
        facts = self.attached.facts()
        for name, value in facts.items():
            if not isinstance(value, int | float):  # metrics.jsonl holds no tensor
                raise UserError(
                    f"method {self._method.name} must give numbers as facts, got a {type(value).__name__} as {name!r}"
                )
        missing = [name for name in _FACTS if name not in facts]
        if missing and (len(missing) < len(_FACTS) or self._method.density_asked is not None):
            raise UserError(
                f"method {self._method.name} must give {' and '.join(_FACTS)} among its facts at each step, since it "
                f"masks, and lacks {', '.join(missing)} (see {type(self.attached).__module__}."
                f"{type(self.attached).__qualname__}.facts)"
            )
        return facts

    def num_trained(self) -> int:
        """Return how many entries the last step trained."""
        attached = self.attached
        return attached.num_trained() if isinstance(attached, CountsEntries) else self._num_entries

    def num_touched(self) -> int | None:
        """Return how many entries the steps have trained; None if it is unknown."""
        attached = self.attached
        return attached.num_touched() if isinstance(attached, CountsEntries) else self._num_entries

    def detach(self) -> None:
        """Takes the method off, if the training came so far as to attach it."""
        if self._attached is not None:
            self._attached.detach()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Model and optimizer are as they will be at every step, and as the checkpoint left them."""
        # accelerate passes over what it can't shard without a word
        assert self._is_sharded == any(is_sharded(parameter) for parameter in of["model"].parameters())
        wrapped = of["optimizer"]
        of["optimizer"] = self._optimizer = wrapped.optimizer if isinstance(wrapped, AcceleratedOptimizer) else wrapped
        self._model, self._layout = of["model"], layout(of["model"])
        self._num_entries = sum(p.numel() for group in self._optimizer.param_groups for p in group["params"])
        with self._watched("attach", of):
            attached = self._attach(of["model"], of["optimizer"])
            check_protocol(f"method {self._method.name}", attached, Attached)
            self._attached = attached
        if self._is_sharded:
            fill_adamw_state(self._optimizer)
        if self._state is not None:
            with self._watched("load_state_dict", of):
                self.attached.load_state_dict(self._state)

    def _attach(self, model: nn.Module, optimizer: Optimizer) -> Attached:
        return attach_method(
            self._method,
            model,
            optimizer,
            seed=self._seed,
            facts_every=self._facts_every,
            source=self._source,
            examples=self._examples,
        )

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Some methods draw anew."""
        with self._watched("begin_epoch", of):
            self.attached.begin_epoch(int(state.epoch or 0))

    @contextmanager
    def _watched(self, doing: str, of: Mapping[str, Any]) -> Iterator[None]:
        """Around a call of the method. One that is refused is not detached: that may fail, and hide why."""
        try:
            with unchanged(self._method.name, doing, of["model"], self.optimizer):
                yield
        except UserError:
            self._attached = None
            raise

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """What a method does at every step shows at the first."""
        if not self._has_stepped:
            check_layout(self._method.name, self._layout, of["model"], "in a step")
            self._has_stepped = True

    def check_detached(self) -> None:
        """Refuse a method that leaves the model with other parts than it found.

        Raises:
            UserError: names the parts.
        """
        assert self._model is not None
        check_layout(self._method.name, self._layout, self._model, "after detach")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The Trainer has written its part of a checkpoint."""
        assert args.output_dir is not None
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        method_state = self.attached.state_dict()
        if (fault := _not_plain(method_state, "state_dict()")) is not None:  # a checkpoint that could not be loaded
            raise UserError(f"method {self._method.name} must give a checkpoint plain values and tensors, got {fault}")
        save_method(checkpoint, method_state, is_sharded=self._is_sharded)


def _not_plain(value: object, where: str) -> str | None:
    """Return the first part of a state that can't be loaded without running code; None if there is no such part."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes) or isinstance(value, _TORCH_TYPES):
        return None
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        parts = [(f"{where}[{key!r}]", part) for key, part in value.items()] + [(where, key) for key in value]
    elif type(value) in (list, tuple, set):
        assert isinstance(value, list | tuple | set)
        parts = [(f"{where}[{number}]", part) for number, part in enumerate(value)]
    else:
        return f"a {type(value).__name__} in {where}"
    return next(filter(None, (_not_plain(part, place) for place, part in parts)), None)

"""A callback of transformers' Trainer that attaches a method, and checks and saves the method during a training."""

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
_MASK_FACTS = ("density", "mask_seconds")  # facts that every mask must report


class MethodCallback(TrainerCallback):
    """Attaches the method, notifies it of each epoch, and saves its state beside each checkpoint.

    The method is attached when the training begins. By then FSDP2 has replaced the weights by shards, and has filled
    the optimizer's state by a step without effect, which no mask should count.

    Args:
        method: the settings of the method.
        seed: the seed of the method's random draws.
        facts_every: the number of optimizer steps between facts that take time.
        state: the method's state in a checkpoint, from `load_method`; None for a new training.
        is_sharded: whether the state is only this worker's part.
        source: returns source prompts, for a method that reads them.
        examples: the training examples, for a method that probes the model on some.
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
        self._num_entries = 0  # the number of entries of the optimizer's parameters

    @property
    def attached(self) -> Attached:
        """The method at work."""
        assert self._attached is not None
        return self._attached

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, without accelerate's wrapper."""
        assert self._optimizer is not None
        return self._optimizer

    def facts(self) -> Mapping[str, float]:
        """Return the method's facts of the last step.

        Raises:
            UserError: a fact is not a number, or a mask does not report a fact that every mask must report.
        """
        facts = self.attached.facts()
        for name, value in facts.items():
            if not isinstance(value, int | float):  # metrics.jsonl can't hold tensors
                raise UserError(
                    f"method {self._method.name} must give numbers as facts, got a {type(value).__name__} as {name!r}"
                )
        missing = [name for name in _MASK_FACTS if name not in facts]
        if missing and (len(missing) < len(_MASK_FACTS) or self._method.target_density is not None):
            raise UserError(
                f"method {self._method.name} must give {' and '.join(_MASK_FACTS)} among its facts at each step, since "
                f"it masks, and lacks {', '.join(missing)} (see {type(self.attached).__module__}."
                f"{type(self.attached).__qualname__}.facts)"
            )
        return facts

    def num_trained(self) -> int:
        """Return how many entries the last step trained."""
        attached = self.attached
        return attached.num_trained() if isinstance(attached, CountsEntries) else self._num_entries

    def num_touched(self) -> int | None:
        """Return how many entries the steps so far have trained; None if unknown."""
        attached = self.attached
        return attached.num_touched() if isinstance(attached, CountsEntries) else self._num_entries

    def detach(self) -> None:
        """Detach the method, if it was attached."""
        if self._attached is not None:
            self._attached.detach()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Attach the method; model and optimizer are in their final form, with the values of the checkpoint."""
        model, optimizer = objects["model"], objects["optimizer"]
        # accelerate skips, without a message, parameters that it can't shard
        assert self._is_sharded == any(is_sharded(parameter) for parameter in model.parameters())
        self._optimizer = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        self._model, self._layout = model, layout(model)
        self._num_entries = sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])
        with self._checked("attach", model):
            attached = self._attach(model, self.optimizer)
            check_protocol(f"method {self._method.name}", attached, Attached)
            self._attached = attached
        if self._is_sharded:
            fill_adamw_state(self.optimizer)
        if self._state is not None:
            with self._checked("load_state_dict", model):
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

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Let the method prepare the epoch."""
        with self._checked("begin_epoch", objects["model"]):
            self.attached.begin_epoch(int(state.epoch or 0))

    @contextmanager
    def _checked(self, call: str, model: nn.Module) -> Iterator[None]:
        """Refuse the method if it changes the model's parts inside the block; `call` names the method's function.

        A refused method is not detached later, since `detach` might fail too and hide the reason of the refusal.
        """
        try:
            with unchanged(self._method.name, call, model, self.optimizer):
                yield
        except UserError:
            self._attached = None
            raise

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **objects: Any
    ) -> None:
        """Check the model's parts after the first step; a method that changes them in steps does so in the first."""
        if not self._has_stepped:
            check_layout(self._method.name, self._layout, objects["model"], "in a step")
            self._has_stepped = True

    def check_detached(self) -> None:
        """Raise UserError if the detached method leaves the model with other parts than before."""
        assert self._model is not None
        check_layout(self._method.name, self._layout, self._model, "after detach")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the method's state into a checkpoint, after the Trainer has written its part."""
        assert args.output_dir is not None
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        method_state = self.attached.state_dict()
        if (fault := _not_plain(method_state, "state_dict()")) is not None:  # the checkpoint could not be loaded
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

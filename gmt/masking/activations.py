"""Sums over tokens of the inputs or outputs of linear layers, gathered by forward hooks that change nothing.

The sums cover the training passes of the model since the mask was last chosen, on all processes, without padding and
without batches that have no label; or, once, batches that the caller provides.

Shape suffixes: F features of a layer, inputs or outputs; T tokens of a batch.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.grains import is_transposed
from gmt.masking.parameters import Ranked, is_linear
from gmt.masking.processes import in_group
from gmt.masking.signals import INPUTS, Row

_IGNORED = -100  # the default ignore_index of torch's cross entropy

Batches = Callable[[], Iterable[Mapping[str, Any]]]


class Activations:
    """Sums up the inputs or outputs of the layers whose weights are ranked.

    Args:
        model: the model whose forward passes are observed: plain, compiled after this object is made, or under DDP.
        row: the table row of a signal that needs inputs or outputs.
        batches: returns batches for the model's forward pass, over which the sums are taken instead of the training;
            the first call of `end_step` reads them. None: the sums are taken over the training.
    """

    def __init__(self, model: nn.Module, row: Row, batches: Batches | None):
        self._row, self._batches = row, batches
        self._model = getattr(model, "module", model) if _is_parallel(model) else model
        self._since_step_F: dict[str, Tensor] = {}  # this process's sums since the last step, float64 of shape [F]
        self._sums_F: dict[str, Tensor] = {}
        self._transposed: dict[str, bool] = {}
        self._has_read_batches = False
        self._depth = 0  # nested forward passes under observation: the model's, and inside it its base model's
        self._padding: Tensor | None = None
        self._has_labels: Tensor | None = None  # whether a token of the batch has a label; None without labels
        self._handles: list[Any] = []

    def watch(self, names: Mapping[nn.Parameter, str]) -> None:
        """Register hooks on the layers of the parameters that are not observed yet.

        Args:
            names: the names of the parameters that are ranked.

        Raises:
            ValueError: a parameter is not the weight of a linear layer; the message names it.
        """
        layers = {m.weight: m for m in self._model.modules() if is_linear(m)}
        for p, name in names.items():
            if p not in layers:
                raise ValueError(
                    f"signal={self._row.name}: {name} is not the weight of a linear layer, so exclude must name it"
                )
        if not self._handles:
            for root in {self._model, getattr(self._model, "base_model", self._model)}:
                self._handles.append(root.register_forward_pre_hook(self._begin_pass, with_kwargs=True))
                self._handles.append(root.register_forward_hook(self._end_pass, always_call=True))
        for p, name in names.items():
            if name not in self._since_step_F:
                self._watch(name, p, layers[p])

    def _watch(self, name: str, p: nn.Parameter, layer: nn.Module) -> None:
        self._transposed[name] = is_transposed(layer)
        is_first = (INPUTS in self._row.needs) == is_transposed(layer)
        self._since_step_F[name] = torch.zeros(p.shape[0 if is_first else 1], dtype=torch.float64, device=p.device)
        self._sums_F[name] = torch.zeros_like(self._since_step_F[name])
        self._handles.append(layer.register_forward_hook(self._adding_hook(name)))

    @torch.no_grad()
    def end_step(self, parameters: Sequence[Ranked]) -> None:
        """Add up the sums of all processes, and set `activity` of the parameters whose mask is chosen at this step.

        Every process must call this with the same parameters. Their sums then restart at zero, except sums over
        `batches`.

        Raises:
            ValueError: there was no forward pass to observe, or no batch.
        """
        if self._batches is None:
            self._add_up_processes()
        elif not self._has_read_batches:
            self._read(self._batches())
        for r in parameters:
            sums_F = self._sums_F[r.name]
            is_column = (INPUTS in self._row.needs) == self._transposed[r.name]
            r.activity = (sums_F.view(-1, 1) if is_column else sums_F.view(1, -1)).clone()
            if self._batches is None:
                sums_F.zero_()

    def _add_up_processes(self) -> None:
        joint = torch.cat(list(self._since_step_F.values()))
        if in_group():
            torch.distributed.all_reduce(joint)  # a process whose batches have no label adds zeros
        if not bool(joint.any()):  # also if the layers of a compiled model run no hooks
            raise ValueError(
                f"signal={self._row.name} saw no forward pass of the model in training mode before this step"
            )
        parts = torch.split(joint, [len(sum_F) for sum_F in self._since_step_F.values()])
        for name, sum_F in zip(self._since_step_F, parts, strict=True):
            self._sums_F[name] += sum_F
            self._since_step_F[name].zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums, which are the same on every process; empty before `batches` are read."""
        return dict(self._sums_F) if self._has_read_batches or self._batches is None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's sums."""
        for name, sums_F in state.items():
            self._sums_F[name].copy_(sums_F)
        self._has_read_batches = bool(state) and self._batches is not None

    def end_watching(self, masked: Set[str]) -> None:
        """Remove the hooks if every observed parameter has a mask; for masks that are chosen only once.

        Args:
            masked: the names of the parameters that have a mask.
        """
        if self._sums_F.keys() <= masked:
            self.remove()

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _read(self, batches: Iterable[Mapping[str, Any]]) -> None:
        was_training = self._model.training
        self._model.eval()
        self._depth += 1
        try:
            for batch in batches:
                self._padding, self._has_read_batches = batch.get("attention_mask"), True
                self._model(**batch)
        finally:
            self._depth -= 1
            self._model.train(was_training)
        if not self._has_read_batches:
            raise ValueError(f"signal={self._row.name} got no batch of source data")
        for name, sum_F in self._since_step_F.items():
            self._sums_F[name] += sum_F
            sum_F.zero_()

    def _begin_pass(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._batches is not None or not (module.training and torch.is_grad_enabled()):
            return
        if self._depth == 0:
            arguments = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
            self._padding = arguments.get("attention_mask")
            labels = arguments.get("labels")
            self._has_labels = None if labels is None else (labels != _IGNORED).any()
        self._depth += 1

    def _end_pass(self, module: nn.Module, *_: Any) -> None:
        if self._batches is None and self._depth:
            self._depth -= 1

    def _adding_hook(self, name: str) -> Callable[..., None]:
        def add(_: nn.Module, args: Any, output: Tensor) -> None:
            # Activation checkpointing runs a layer again in the backward pass, when no forward pass is in progress.
            if self._depth:
                x = args[0] if INPUTS in self._row.needs else output
                sum_F = _sum(x.detach(), self._padding, self._row, name)
                if self._has_labels is not None:
                    sum_F = torch.where(self._has_labels, sum_F, 0)
                self._since_step_F[name] += sum_F

        return add


@torch.no_grad()
def _sum(x: Tensor, attention_mask: Tensor | None, row: Row, name: str) -> Tensor:
    """Return the sum over a batch's tokens, float64 of shape [F]."""
    assert row.of_token is not None
    x_TF = row.of_token(x.float().reshape(-1, x.shape[-1]))
    if attention_mask is not None:
        if attention_mask.ndim != 2 or attention_mask.numel() != len(x_TF):
            raise ValueError(
                f"signal={row.name} can't tell the padding of {name}: its layer's input or output has the shape "
                f"{tuple(x.shape)}, and the attention mask {tuple(attention_mask.shape)}, not [batch, width]"
            )
        x_TF = torch.where(attention_mask.reshape(-1, 1).bool(), x_TF, 0)
    return x_TF.sum(0, dtype=torch.float64)


def _is_parallel(model: nn.Module) -> bool:
    return isinstance(model, nn.parallel.DistributedDataParallel)

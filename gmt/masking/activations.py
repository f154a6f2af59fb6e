"""Sums over what linear layers read or write, gathered by forward hooks that only look.

They are taken in the training passes of the model, without padding and without batches that have no label, over the
micro-batches and processes of the steps since the mask was last made; or once, over batches that the caller gives.

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

_IGNORED = -100  # the label that torch's cross entropy leaves out

Batches = Callable[[], Iterable[Mapping[str, Any]]]


class Activations:
    """The sums of the layers that own the ranked parameters.

    Args:
        model: whose forward passes are watched; plain, compiled after this, or under DDP.
        row: of a signal that needs inputs or outputs.
        batches: gives what to gather over instead of the training, as the model's forward pass takes it; the first
            call of `end_step` reads it. None for the training.
    """

    def __init__(self, model: nn.Module, row: Row, batches: Batches | None):
        self._row, self._batches = row, batches
        self._model = getattr(model, "module", model) if _is_parallel(model) else model
        self._since_step_F: dict[str, Tensor] = {}  # of this process, float64 of shape [F]
        self._sums_F: dict[str, Tensor] = {}
        self._transposed: dict[str, bool] = {}
        self._is_seen = False
        self._depth = 0  # of nested forward passes that count, of a model or of its part without a head
        self._padding: Tensor | None = None
        self._has_labels: Tensor | None = None  # of the batch, if it comes with labels: a blank has none
        self._handles: list[Any] = []

    def watch(self, names: Mapping[nn.Parameter, str]) -> None:
        """Begin to watch the layers of the parameters that are not watched yet.

        Raises:
            ValueError: a parameter is no weight of a linear layer; names it.
        """
        layers = {m.weight: m for m in self._model.modules() if is_linear(m)}
        for p, name in names.items():
            if p not in layers:
                raise ValueError(
                    f"signal={self._row.name}: {name} is no weight of a linear layer, so exclude must name it"
                )
        if not self._handles:
            for root in {self._model, getattr(self._model, "base_model", self._model)}:
                self._handles.append(root.register_forward_pre_hook(self._open, with_kwargs=True))
                self._handles.append(root.register_forward_hook(self._close, always_call=True))
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
    def end_step(self, every: Sequence[Ranked]) -> None:
        """End a step: add up what the processes have seen, and give it to the parameters whose mask is made now.

        Every process must call it, with the same parameters, whose sums then begin anew; what `batches` gave stays.

        Raises:
            ValueError: no forward pass was seen.
        """
        if self._batches is None:
            self._add_up()
        elif not self._is_seen:
            self._read(self._batches())
        for r in every:
            sums_F = self._sums_F[r.name]
            is_column = (INPUTS in self._row.needs) == self._transposed[r.name]
            r.activity = (sums_F.view(-1, 1) if is_column else sums_F.view(1, -1)).clone()
            if self._batches is None:
                sums_F.zero_()

    def _add_up(self) -> None:
        here = torch.cat(list(self._since_step_F.values()))
        if in_group():
            torch.distributed.all_reduce(here)  # of a process that saw blanks alone, zeros
        if not bool(here.any()):  # so too where the layers of a compiled model run no hooks
            raise ValueError(
                f"signal={self._row.name} saw no forward pass of the model in training mode before this step"
            )
        parts = torch.split(here, [len(seen_F) for seen_F in self._since_step_F.values()])
        for name, seen_F in zip(self._since_step_F, parts, strict=True):
            self._sums_F[name] += seen_F
            self._since_step_F[name].zero_()
        self._is_seen = False

    def state_dict(self) -> dict[str, Tensor]:
        """The sums, the same on every process; empty before `batches` are read."""
        return dict(self._sums_F) if self._is_seen or self._batches is None else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's sums."""
        for name, sums_F in state.items():
            self._sums_F[name].copy_(sums_F)
        self._is_seen = bool(state) and self._batches is not None

    def end_watching(self, masked: Set[str]) -> None:
        """Take the hooks off if each parameter has a mask that stays."""
        if self._sums_F.keys() <= masked:
            self.remove()

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _read(self, batches: Iterable[Mapping[str, Any]]) -> None:
        was_training = self._model.training
        self._model.eval()
        self._depth += 1
        try:
            for batch in batches:
                self._padding, self._is_seen = batch.get("attention_mask"), True
                self._model(**batch)
        finally:
            self._depth -= 1
            self._model.train(was_training)
        if not self._is_seen:
            raise ValueError(f"signal={self._row.name} got no batch of source data")
        for name, seen_F in self._since_step_F.items():
            self._sums_F[name] += seen_F
            seen_F.zero_()

    def _open(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._batches is not None or not (module.training and torch.is_grad_enabled()):
            return
        if self._depth == 0:
            given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
            self._padding = given.get("attention_mask")
            labels = given.get("labels")
            self._has_labels = None if labels is None else (labels != _IGNORED).any()
        self._depth += 1
        self._is_seen = True

    def _close(self, module: nn.Module, *_: Any) -> None:
        if self._batches is None and self._depth:
            self._depth -= 1

    def _adding_hook(self, name: str) -> Callable[..., None]:
        def add(_: nn.Module, args: Any, output: Tensor) -> None:
            # A pass that checkpointing does again, in backward, lies outside the model's own.
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
                f"signal={row.name} can't tell the padding of {name}, which has {tuple(x.shape)} under an attention "
                f"mask of {tuple(attention_mask.shape)}"
            )
        x_TF = torch.where(attention_mask.reshape(-1, 1).bool(), x_TF, 0)
    return x_TF.sum(0, dtype=torch.float64)


def _is_parallel(model: nn.Module) -> bool:
    return isinstance(model, nn.parallel.DistributedDataParallel)

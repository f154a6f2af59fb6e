"""Muon on the matrices of the hidden layers and AdamW on the rest, as one optimizer with one state.

Muon (Jordan et al., 2024) makes the update of a matrix orthogonal. Its learning rate is scaled by 0.2 sqrt(max(rows,
columns)), which gives its updates the size of AdamW's (Liu et al., arXiv 2502.16982, Section 2.2), so that both use one
learning rate and one weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from gmt.errors import UserError

_ADJUST = "match_rms_adamw"


def split_groups(model: PreTrainedModel, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split each parameter group into one for Muon and one for AdamW, marked by `is_matrix`.

    AdamW trains the embeddings, the output head and all parameters that are not matrices, such as norms, biases and
    experts that transformers holds in one tensor; Muon trains the rest.

    Args:
        model: the model.
        groups: groups of its parameters.

    Raises:
        UserError: there is no parameter for Muon.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) or m is head]
    table_ids = {id(p) for table in tables for p in table.parameters()}

    def is_matrix(p: nn.Parameter) -> bool:
        return p.ndim == 2 and id(p) not in table_ids

    split = [
        {**group, "params": params, "is_matrix": for_muon}
        for group in groups
        for for_muon in (True, False)
        if (params := [p for p in group["params"] if is_matrix(p) == for_muon])
    ]
    if not any(group["is_matrix"] for group in split):
        raise UserError(
            "train.optimizer=muon needs a matrix of a hidden layer among the parameters that train: use adamw"
        )
    return split


class MuonWithAdamW(Optimizer):
    """torch's Muon on the groups whose `is_matrix` is True, torch's AdamW on the others.

    Args:
        params: groups with the settings of AdamW; `is_matrix` is True by default.
        momentum: Muon's Nesterov momentum.
        lr, weight_decay, betas, eps: defaults for groups that lack them; Muon does not use betas and eps.
    """

    def __init__(
        self,
        params: Any,
        *,
        momentum: float,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(params, {**defaults, "is_matrix": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            inner = _muon(group) if group["is_matrix"] else _adamw(group)
            inner.state = self.state  # so that this optimizer's state_dict holds the states of both
            inner.step()
        return loss


def _muon(group: dict[str, Any]) -> Optimizer:
    settings = {key: group[key] for key in ("lr", "weight_decay", "momentum")}
    return torch.optim.Muon(group["params"], adjust_lr_fn=_ADJUST, **settings)


def _adamw(group: dict[str, Any]) -> Optimizer:
    settings = {key: group[key] for key in ("lr", "weight_decay", "betas", "eps")}
    return torch.optim.AdamW(group["params"], fused=True, **settings)

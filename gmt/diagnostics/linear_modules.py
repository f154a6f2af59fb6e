"""The linear modules of a model: torch's Linear, and the Conv1D of GPT-2, which holds the transposed matrix."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def linear_modules(model: nn.Module, tuned: Container[str]) -> dict[str, nn.Module]:
    """Return the linear modules with a weight among the trained ones, by name.

    Args:
        model: the base.
        tuned: the names of the trained parameters.
    """
    modules = model.named_modules()
    return {name: m for name, m in modules if isinstance(m, nn.Linear | Conv1D) and f"{name}.weight" in tuned}


def compact(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias of a smaller linear module whose outputs have the same inner products.

    It has at most one output more than inputs. Weight and bias are float32, in the layout of nn.Linear. With A = [W b]
    and A = Q R, the outputs of R are the coordinates of A's outputs in an orthonormal basis.
    """
    linear: Any = module
    weight = linear.weight.detach().float()
    weight = weight.T if isinstance(module, Conv1D) else weight
    bias = None if linear.bias is None else linear.bias.detach().float()
    affine = weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)
    if affine.shape[0] <= affine.shape[1]:
        return weight, bias
    compacted = torch.linalg.qr(affine, mode="r").R
    return (compacted, None) if bias is None else (compacted[:, :-1], compacted[:, -1])

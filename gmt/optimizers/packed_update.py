"""One step of AdamW on vectors of kept entries.

Shape suffix: K kept entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from gmt.masking.support import Support
from gmt.optimizers.cohorts import ages

_LINE = 64  # bytes: a multiple of the size of every vector that torch's CPU kernels use
_VECTOR = {"AVX512": 64}  # the size of torch's vectors in bytes, by the processor's capability
_OTHER_VECTOR = 32


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """The gradient of one parameter, and the tensors that a step changes in place.

    Args:
        weight: the whole parameter, or its kept entries, of shape [K].
        gradient: a tensor of the same shape.
        state: `step`, `exp_avg` and `exp_avg_sq`, and those of cohorts.py if each entry has an age of its own.
        support: the kept entries of the parameter; None for all.
    """

    weight: Tensor
    gradient: Tensor
    state: dict[str, Any]
    support: Support | None

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors in the order of the arguments of torch's AdamW."""
        return [self.weight, self.gradient, self.state["exp_avg"], self.state["exp_avg_sq"]]


def update(parameters: Sequence[Stepped], group: dict[str, Any]) -> None:
    """Take one step of AdamW with some parameters of one group; on a GPU in one call, except for those with ages.

    Args:
        parameters: the parameters' tensors.
        group: the settings of AdamW.
    """
    in_one_call = []
    for stepped in parameters:
        if "age" in stepped.state:
            _update_by_age(stepped, group)
        elif stepped.support is not None and stepped.weight.device.type == "cpu":
            _update_in_pieces(stepped, stepped.support, group)
        else:
            in_one_call.append(stepped)
    if in_one_call:
        _fused([s.tensors for s in in_one_call], [s.state["step"] for s in in_one_call], group)


def _update_in_pieces(stepped: Stepped, support: Support, group: dict[str, Any]) -> None:
    """Take a step of torch's fused AdamW with kept entries on the CPU.

    That kernel rounds the last entries of a tensor, which do not fill a vector of the processor, differently from the
    others. So the kept entries are passed in pieces, such that each is rounded as in the whole parameter.
    """
    tensors, weight = stepped.tensors, stepped.weight
    per_line = _LINE // weight.element_size()
    num_body = support.num_kept - _num_in_tail(support, weight.element_size())
    num_full = num_body - num_body % per_line
    rest = [x[num_full:num_body] for x in tensors]
    padded = [torch.nn.functional.pad(x, (0, per_line - len(x))) for x in rest]  # zeros
    pieces = [[x[:num_full] for x in tensors], padded, [x[num_body:] for x in tensors]]
    step = stepped.state["step"]
    _fused(pieces, [step, *(step.clone() for _ in pieces[1:])], group)
    for x, new in zip(rest, padded, strict=True):
        x.copy_(new[: len(x)])


def _num_in_tail(support: Support, element_size: int) -> int:
    """Return the number of kept entries among the parameter's last entries, which do not fill a vector."""
    per_vector = _VECTOR.get(torch.backends.cpu.get_cpu_capability(), _OTHER_VECTOR) // element_size
    num_entries = support.num_entries
    tail = torch.arange(num_entries - num_entries % per_vector, num_entries)
    return int(support.holds(tail).sum()) if len(tail) else 0


def _fused(pieces: list[list[Tensor]], steps: list[Tensor], group: dict[str, Any]) -> None:
    weights, gradients, firsts, seconds = map(list, zip(*pieces, strict=True))
    adamw(
        weights,
        gradients,
        firsts,
        seconds,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _update_by_age(stepped: Stepped, group: dict[str, Any]) -> None:
    """Take a step of AdamW whose bias correction uses each entry's own number of steps.

    It computes in float32, as torch's fused AdamW does, but the last bits may differ.
    """
    weight_K, gradient_K, state = stepped.weight, stepped.gradient, stepped.state
    (beta1, beta2), lr = group["betas"], group["lr"]
    state["step"] += 1
    state["age"] += 1
    age_K = cast(Tensor, ages(state)).double()
    correction1_K, correction2_K = ((1 - torch.pow(beta, age_K)).float() for beta in (beta1, beta2))
    gradient_K = gradient_K.float()
    first_K = state["exp_avg"].float().lerp(gradient_K, 1 - beta1)
    second_K = (state["exp_avg_sq"].float() * beta2).addcmul_(gradient_K, gradient_K, value=1 - beta2)
    state["exp_avg"].copy_(first_K)
    state["exp_avg_sq"].copy_(second_K)
    denominator_K = second_K.sqrt_().div_(correction2_K.sqrt_()).add_(group["eps"])
    decayed_K = weight_K.float() * (1 - lr * group["weight_decay"])
    weight_K.copy_(decayed_K.addcdiv_(first_K / correction1_K, denominator_K, value=-lr))

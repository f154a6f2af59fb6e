"""The distance of weights from the base's, against numbers computed by hand."""

import math
from typing import Any

import pytest
import torch

from gmt.training.delta import delta_of
from tests.architectures import tiny_model


def test_norms_and_the_moved_fraction_are_those_computed_by_hand() -> None:
    base: Any = tiny_model("llama", tie_word_embeddings=True)
    model: Any = tiny_model("llama", tie_word_embeddings=True)
    with torch.no_grad():
        for parameter in (p for m in (base, model) for p in m.parameters()):
            parameter.fill_(0.5)
        model.model.norm.weight[:3] += torch.tensor([3.0, -4.0, 12.0])
    delta, total = delta_of(model, base), base.num_parameters()
    assert delta.norm == pytest.approx(13, rel=1e-12)  # 9 + 16 + 144 = 169
    assert delta.relative_norm == pytest.approx(13 / (0.5 * math.sqrt(total)), rel=1e-12)
    assert delta.moved_fraction == 3 / total


def test_a_missing_weight_counts_as_moved_and_leaves_no_norm() -> None:
    base: Any = tiny_model("llama")
    parameters = dict(base.named_parameters())
    number = parameters.pop("model.norm.weight").numel()
    delta = delta_of(parameters, base)
    assert (delta.norm, delta.relative_norm) == (None, None)
    assert delta.moved_fraction == number / base.num_parameters()


def test_weights_that_do_not_move_have_the_norm_zero() -> None:
    base = tiny_model("llama")
    assert delta_of(base, base).norm == delta_of(base, base).relative_norm == 0

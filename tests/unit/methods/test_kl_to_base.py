"""The KL term, against a sum by hand; it vanishes at the base and holds a training near it."""

from typing import Any

import pytest
import torch

from gmt.errors import UserError
from gmt.methods.kl_to_base import KlToBase
from tests.architectures import tiny_model

IDS = torch.arange(8)[None]
LABELS = torch.where(IDS < 3, -100, IDS)


def moved() -> Any:
    model: Any = tiny_model("llama")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_the_term_is_the_mean_divergence_from_the_base_over_labelled_tokens() -> None:
    model, base = moved(), tiny_model("llama")
    term = KlToBase(name="kl", strength=0.5).loss_term(model, base=lambda: tiny_model("llama"))
    with torch.no_grad():
        ours, theirs = (m(input_ids=IDS).logits[0, 2:-1].double().log_softmax(-1) for m in (model, base))
    by_hand = 0.5 * (theirs.exp() * (theirs - ours)).sum(-1).mean()
    assert term({"input_ids": IDS, "labels": LABELS}).item() == pytest.approx(float(by_hand), rel=1e-4)


def test_the_term_and_its_gradient_vanish_at_the_base() -> None:
    model: Any = tiny_model("llama")
    term = KlToBase(name="kl", strength=1.0).loss_term(model, base=lambda: tiny_model("llama"))
    value = term({"input_ids": IDS, "labels": LABELS})
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-5


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(UserError, match=r"method.strength must be at least 0, got -1"):
        KlToBase(name="kl", strength=-1)

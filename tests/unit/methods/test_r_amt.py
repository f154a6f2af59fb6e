"""R-AMT: gradients of scores are dropped where they go against the base."""

from typing import Any

import pytest
import torch

from gmt.errors import UserError
from gmt.methods.divergence import divergence
from gmt.methods.r_amt import RegularizedMaskTuning, probability
from gmt.training.reshaping import Reshaping
from tests.architectures import tiny_model
from tests.unit.methods.few_steps import IDS

BATCH = {"input_ids": IDS, "labels": IDS}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def r_amt(**changes: Any) -> RegularizedMaskTuning:
    settings = {"name": "r_amt", "initial": 0.01, "threshold": 0.005, "dropout": 1.0, "strength": 0.0}
    return RegularizedMaskTuning(**{**settings, "targets": TARGETS, "layers": None, **changes})


def masked(method: RegularizedMaskTuning) -> tuple[Any, Any, Any]:
    """Return a model with some entries set to zero, its scores by name, and the term of the loss."""
    model: Any = tiny_model("llama")
    Reshaping(method, model, seed=1)
    scores = {name: p for name, p in model.named_parameters() if name.endswith(".scores")}
    torch.manual_seed(0)
    with torch.no_grad():
        for p in scores.values():
            p[torch.rand(p.shape) < 0.2] = 0.0
    return model, scores, method.loss_term(model, base=lambda: model)


def test_it_begins_as_the_base_and_the_loss_holds_no_divergence() -> None:
    model: Any = tiny_model("llama")
    before = model(input_ids=IDS).logits
    method = r_amt()
    reshaping = Reshaping(method, model, seed=1)
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert reshaping.sizes.num_added == reshaping.sizes.num_trainable > 0
    _, _, term = masked(method)
    assert float(term(BATCH).detach()) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "stays"), [(1, 3, 1), (-2, -1, 1), (1, -1, 0.5), (1, -3, 0.25), (-1, 3, 0.25), (2, 0, 1)]
)
def test_the_probability_to_stay(a: float, b: float, stays: float) -> None:
    assert float(probability(torch.tensor(float(a)), torch.tensor(float(b)))) == pytest.approx(stays)


def test_the_divergence_is_kl_at_the_tokens_before_labelled_ones() -> None:
    torch.manual_seed(0)
    base, ours = torch.randn(2, 1, 3, 5)
    p, q = base[0, 1].softmax(-1), ours[0, 1].softmax(-1)
    only_last = torch.tensor([[True, False, True]])  # the first token is predicted by none
    assert float(divergence(base, ours, only_last)) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)


def test_the_terms_gradients_go_to_the_twins_and_a_step_uses_both() -> None:
    method = r_amt()
    model, scores, term = masked(method)
    term(BATCH).backward()
    twins = {name: model.get_submodule(name.removesuffix(".scores")).twin for name in scores}
    assert not any(p.grad.any() for p in scores.values())
    of_base = {name: twin.grad.clone() for name, twin in twins.items()}
    assert all(bool(each.any()) for each in of_base.values())
    model(**BATCH).loss.backward()
    gradients = {name: p.grad.clone() for name, p in scores.items()}
    optimizer = torch.optim.SGD(scores.values(), lr=0.0)
    work = method.attach(model, optimizer, seed=1, facts_every=1)
    optimizer.step()
    dropped = 0
    for name, p in scores.items():
        stays = probability(gradients[name], of_base[name])
        is_dropped = p.grad != gradients[name]
        assert not p.grad[is_dropped].any()
        assert not is_dropped[stays > 0.9999].any()
        dropped += int(is_dropped.sum())
        assert float(is_dropped.float().mean()) == pytest.approx(float(1 - stays.mean()), abs=0.04)
        assert twins[name].grad is None
    facts = work.facts()
    assert facts["dropped_fraction"] == pytest.approx(dropped / sum(p.numel() for p in scores.values()), abs=0.02)
    assert facts["zero_fraction"] == pytest.approx(0.2, abs=0.02)
    work.detach()
    assert not optimizer._optimizer_step_pre_hooks


def test_the_norms_gradient_goes_to_the_scores() -> None:
    _, scores, term = masked(r_amt(strength=0.5))
    term(BATCH).backward()
    for p in scores.values():
        torch.testing.assert_close(p.grad, 0.5 * p.detach() / p.detach().norm())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"threshold": 0.01}, r"method\.threshold must lie in \[0, method\.initial\), so below 0\.01, got 0\.01"),
        ({"dropout": 1.1}, r"method\.dropout must lie in \[0, 1\], got 1\.1"),
        ({"targets": []}, r"method\.targets must be all-linear or a list of texts, got \[\]"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        r_amt(**changes)


def test_gradient_checkpointing_is_refused() -> None:
    model: Any = tiny_model("llama")
    model.activation_checkpointing_enable()
    with pytest.raises(UserError, match=r"method r_amt can't work with model\.gradient_checkpointing=true"):
        Reshaping(r_amt(), model, seed=1)

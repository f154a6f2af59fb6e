"""The trial without weights says what a training says, for every arm on models of several families."""

import copy
from typing import Any

import pytest

from gmt.errors import UserError
from gmt.methods.protocol import TrainsInPhases
from gmt.training.attaching import attach_method
from gmt.training.method_trial import try_method
from gmt.training.optimizers import default_groups, make_optimizer
from gmt.training.reshaping import Examples, Reshaping
from tests.arms import ARMS, method_of
from tests.model_families import FAMILIES, UNKNOWN, model_of
from tests.models import train_settings
from tests.unit.training.test_method_trial import collate

USUAL = "gpt2"
ROWS = [{"input_ids": list(range(3, 4 + i % 7)), "labels": list(range(3, 4 + i % 7))} for i in range(64)]


def refusal_of_training(arm: str, model: Any) -> str | None:
    """Return the sentence of a training that begins on real weights, without the parts that read examples."""
    method = method_of(arm)
    rows = Examples(rows=ROWS * 8, collate=collate, device="cpu")
    try:
        Reshaping(method, model, seed=1)
        if isinstance(method, TrainsInPhases):
            method = method.begin_phase(0, model, [], base=lambda: model)
        groups = default_groups(model, [], lr=0.01, weight_decay=0.0, betas=(0.9, 0.999))
        optimizer = make_optimizer(method, model, groups, name="adamw", momentum=None)
        more: dict[str, Any] = {"source": lambda: iter(()), "examples": rows}
        attach_method(method, model, optimizer, seed=1, facts_every=0, **more).detach()
    except UserError as error:
        return str(error)
    return None


def refusal_of_trial(arm: str, model: Any) -> str | None:
    rows = Examples(rows=ROWS * 8, collate=collate, device="cpu")
    settings = train_settings()
    try:
        try_method(method_of(arm), model, settings, seed=1, num_rows=10**6, examples=lambda: rows, must_merge=False)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f == USUAL else pytest.mark.slow) for f in (*FAMILIES, *UNKNOWN)]
)
def test_the_trial_refuses_what_a_training_refuses(family: str) -> None:
    """But for what the values of weights decide: the smallest of them, and what comes out of a pass of the model."""
    model = model_of(family)
    found, expected = (
        {arm: refusal(arm, copy.deepcopy(model)) for arm in ARMS} for refusal in (refusal_of_trial, refusal_of_training)
    )
    by_values = ("the smallest magnitude", "can't put vectors before a text")
    of_values = {arm for arm, sentence in expected.items() if sentence and any(part in sentence for part in by_values)}
    assert {arm for arm in ARMS if found[arm]} == {arm for arm in ARMS if expected[arm]} - of_values
    assert any(found.values())
    assert not all(found.values())

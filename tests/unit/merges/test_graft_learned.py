"""Grafting with a learnt mask, against autograd and on planted losses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmt.errors import UserError
from gmt.merges.graft import Graft
from gmt.merges.protocol import Formula, learns
from tests.merging import run_with
from tests.unit.merges.test_formulas import Memory, assert_same, drawn, merged

Loss = Callable[[Mapping[str, Tensor]], Tensor]


def graft(**settings: Any) -> Graft:
    return Graft(name="m", **{"keep": 0.3, "num_steps": 5, **settings})


def gradients_of(loss: Loss, names: list[str]) -> Callable[[Formula], Mapping[str, Tensor]]:
    def gradients(formula: Formula) -> Mapping[str, Tensor]:
        at = {name: formula(name).requires_grad_() for name in names}
        return dict(zip(names, torch.autograd.grad(loss(at), list(at.values())), strict=True))

    return gradients


def learnt(merge: Graft, weights: Memory, loss: Loss) -> dict[str, Tensor]:
    formula = merge.learnt_formula(weights, gradients_of(loss, weights.names))
    return {name: formula(name) for name in weights.names}


def test_the_logits_descend_by_the_gradient_that_autograd_computes() -> None:
    weights = drawn(1)
    factors = drawn(0, seed=5).own

    def loss(at: Mapping[str, Tensor]) -> Tensor:
        terms = [(factors[name] * at[name]).sum() + 0.5 * at[name].square().sum() for name in at]
        return torch.stack(terms).sum()

    merge = graft(learning_rate=3e4)
    began = merged(Graft(name="m", keep=0.3), weights)
    masks = {name: (began[name] != weights.own[name]).float() for name in began}
    logits = {name: torch.zeros_like(mask, requires_grad=True) for name, mask in masks.items()}
    for _ in range(5):
        shares = {name: masks[name] + (1 - 2 * masks[name]) * torch.sigmoid(s - 10) for name, s in logits.items()}
        value = loss({name: weights.base(name) + shares[name] * weights.delta(0, name) for name in shares})
        found = torch.autograd.grad(value, list(logits.values()))
        with torch.no_grad():
            for s, gradient in zip(logits.values(), found, strict=True):
                s -= 3e4 * gradient
    flipped = {name: s > 10 for name, s in logits.items()}
    assert 10 < sum(int(flips.sum()) for flips in flipped.values()) < 500
    expected = {
        name: torch.where(masks[name].bool() ^ flipped[name], weights.tuned(0, name), weights.base(name))
        for name in masks
    }
    assert_same(learnt(merge, weights, loss), expected)


def test_a_harmful_entry_leaves_and_a_useful_one_joins() -> None:
    weights = Memory({"w": torch.zeros(4)}, [{"w": torch.tensor([3.0, 2.0, -1.0, 0.5])}])
    wanted = torch.tensor([0.0, 2.0, -1.0, 0.0])  # of the largest two, the first does harm
    made = learnt(
        graft(keep=0.5, num_steps=400, learning_rate=300.0), weights, lambda at: (at["w"] - wanted).square().sum()
    )
    assert made["w"].tolist() == wanted.tolist()


def test_without_gradients_the_mask_stays_the_largest_deltas() -> None:
    weights = drawn(1)
    assert_same(learnt(graft(), weights, lambda at: 0 * at["head"].sum() + 0 * sum(x.sum() for x in at.values())),
                merged(Graft(name="m", keep=0.3), weights))  # fmt: skip
    assert_same(
        learnt(graft(keep=1.0), weights, lambda at: 0 * torch.stack([x.sum() for x in at.values()]).sum()),
        weights.parents[0],
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_steps": -1}, r"merge\.num_steps must be a whole number of at least 0, got -1"),
        ({"batch_size": 0}, r"merge\.batch_size must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0}, r"merge\.learning_rate must be above 0, got 0"),
        ({"num_steps": 0, "batch_size": 4}, r"merge\.batch_size must be 8 where merge\.num_steps=0, got 4"),
        ({"num_steps": 0, "learning_rate": 2}, r"merge\.learning_rate must be 1e\+07 where merge\.num_steps=0, got 2"),
    ],
)
def test_a_wrong_setting_is_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        graft(**settings)


def test_a_merge_of_preferences_does_not_learn(tmp_path: Path) -> None:
    assert [learns(graft(num_steps=number)) for number in (0, 1)] == [False, True]
    with pytest.raises(
        UserError, match=r"train\.paradigm must be sft for merge=graft_learned, which learns .* got dpo"
    ):
        run_with(tmp_path, "merge=graft_learned", "train=dpo", "task=ultrafeedback")

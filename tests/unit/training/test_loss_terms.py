"""A term that a method adds to the loss: once a step, however the step is cut; resumed bit for bit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import LlamaForCausalLM

from gmt.errors import Interrupted
from gmt.methods.l2_sp import L2ToStartingPoint
from gmt.methods.protocol import LossTerm
from gmt.methods.sft import Sft
from tests.refusals import assert_refused
from tests.unit.training.test_optimizers import assert_same, trained

pytestmark = pytest.mark.heavy

PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "schedule": "constant",
    "warmup_ratio": 0.0,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "num_epochs": 1,
}


@dataclass(frozen=True, kw_only=True)
class LossAgain(Sft):
    """Adds the loss itself, by a forward pass of its own."""

    def loss_term(self, model: LlamaForCausalLM, *, base: Callable[[], Any]) -> LossTerm:
        def term(batch: Mapping[str, Any]) -> Tensor:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
            labels = batch["labels"][:, 1:]
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)

        return term


def weights_and_metrics(
    folder: Path, method: Any, **changes: Any
) -> tuple[dict[str, Tensor], list[Mapping[str, float]]]:
    rows: list[Mapping[str, float]] = []
    weights = trained(folder, method, on_metrics=lambda step, metrics: rows.append(metrics), **{**PLAIN, **changes})
    return weights, rows


@pytest.mark.parametrize(
    "cut", [{"micro_batch_size": 4, "accumulation_steps": 1}, {"micro_batch_size": 1, "accumulation_steps": 4}]
)
def test_a_term_counts_once_however_its_step_is_cut(cut: dict[str, int], tmp_path: Path) -> None:
    """Learning a loss twice at a rate is learning it once at twice the rate."""
    twice, rows = weights_and_metrics(tmp_path / "twice", LossAgain(name="again"), learning_rate=0.05, **cut)
    once, plain = weights_and_metrics(tmp_path / "once", Sft(name="sft"), learning_rate=0.1)
    for name, weight in once.items():
        torch.testing.assert_close(twice[name], weight, rtol=1e-4, atol=1e-5)
    assert [row["train/loss"] for row in rows] == pytest.approx([2 * row["train/loss"] for row in plain], rel=1e-4)
    if cut["accumulation_steps"] == 1:
        assert [row["train/extra_loss"] for row in rows] == pytest.approx(
            [row["train/loss"] for row in plain], rel=1e-4
        )


def steps_of(method: Any, folder: Path) -> list[list[tuple[Tensor, Tensor]]]:
    """Return for each step the weights before it and their gradients."""
    seen: list[list[tuple[Tensor, Tensor]]] = []

    def see(optimizer: Any, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append([(p.detach().clone(), p.grad.clone()) for p in parameters])

    handle = register_optimizer_step_pre_hook(see)
    try:
        weights_and_metrics(folder, method, learning_rate=0.1)
    finally:
        handle.remove()
    return seen


def test_l2_sp_adds_the_distance_to_the_base_to_the_gradient(tmp_path: Path) -> None:
    """strength * (w - w0), so that the first step is a plain one."""
    plain = steps_of(Sft(name="sft"), tmp_path / "sft")
    pulled = steps_of(L2ToStartingPoint(name="l2_sp", strength=3.0), tmp_path / "l2_sp")
    for (w0, g), (v0, h), (w1, g1), (v1, h1) in zip(plain[0], pulled[0], plain[1], pulled[1], strict=True):
        assert torch.equal(w0, v0)
        assert torch.equal(g, h)
        assert torch.equal(w1, v1)
        torch.testing.assert_close(h1, g1 + 3.0 * (w1 - w0), rtol=1e-4, atol=1e-6)


def test_l2_sp_resumes_bit_for_bit_and_pulls_to_the_base_not_to_its_checkpoint(tmp_path: Path) -> None:
    method = L2ToStartingPoint(name="l2_sp", strength=3.0)
    whole = trained(tmp_path / "whole", method)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", method, stop_at=5)
    assert_same(trained(tmp_path / "stopped", method), whole)


def test_a_term_over_shards_is_refused_when_a_run_is_planned() -> None:
    sentence = r"resources\.sharding must be none for method l2_sp, which adds a term"
    assert_refused(sentence, "method=l2_sp", "resources.sharding=fsdp", "resources.workers=2")

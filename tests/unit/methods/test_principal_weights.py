"""LIFT's claim about the weights that it trains (arXiv 2506.00772, Section 3): noise on them hurts a model most."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gmt.masking.low_rank import LowRankWeight
from gmt.masking.parameters import is_linear, layer_of
from tests.integration.test_prepare import run_of
from tests.models import pretrained

pytestmark = pytest.mark.heavy

FAMILIES = ("addition", "subtraction", "multiplication", "counting", "spelling")
SHARE, NOISE = 0.05, 0.06  # lift's share, and about the standard deviation of nano's weights
SEEDS = range(6)  # at which the first is 3 times the second


def answers(tmp_path: Path) -> tuple[Tensor, Tensor]:
    """What nano was pretrained on: tokens, and labels of the right answers."""
    few = [f"task.train.{family}.num_examples=12" for family in FAMILIES]
    tokenizer = pretrained().load_tokenizer()
    ids, labels = [], []
    for example in run_of(tmp_path, "task=nano_pretraining", *few).task.train_examples():
        prompt, completion = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (example.prompt, example.completion)
        )
        ids.append(torch.tensor([*prompt, *completion]))
        labels.append(torch.tensor([-100] * len(prompt) + completion))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)


def added_loss(model: PreTrainedModel, batch: tuple[Tensor, Tensor], scores: dict[str, Tensor], seed: int) -> float:
    """Return by how much noise on the entries with the largest scores of each matrix raises the loss."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = batch
    before, old = float(model(input_ids=ids, labels=labels).loss), dict(model.state_dict())
    for name, score in scores.items():
        weight = old[name].clone()
        chosen = score.flatten().topk(int(SHARE * score.numel())).indices
        weight.view(-1)[chosen] += NOISE * torch.randn(len(chosen), generator=generator)
        model.get_parameter(name).data = weight
    after = float(model(input_ids=ids, labels=labels).loss)
    for name in scores:
        model.get_parameter(name).data = old[name]
    return after - before


@torch.no_grad()
def test_noise_on_principal_weights_hurts_more_than_on_as_many_random_ones(tmp_path: Path) -> None:
    model, batch = pretrained().load_model().eval(), answers(tmp_path)
    names = [f"{name}.weight" for name, module in model.named_modules() if is_linear(module)]
    weights = {name: model.get_parameter(name) for name in names if layer_of(name) != name}
    signal = LowRankWeight(rank=32, svd="exact")
    principal = {name: signal.score_matrix(weight, weight).abs() for name, weight in weights.items()}
    by_principal, by_random = 0.0, 0.0
    for seed in SEEDS:
        draw = torch.Generator().manual_seed(100 + seed)
        random = {name: torch.rand(weight.shape, generator=draw) for name, weight in weights.items()}
        by_principal += added_loss(model, batch, principal, seed)
        by_random += added_loss(model, batch, random, seed)
    assert by_principal > 2 * by_random > 0

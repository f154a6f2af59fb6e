"""A one-off drop sets back exactly the entries that it says, and keeps the others as they were trained."""

from pathlib import Path

import pytest
import torch

from gmt.errors import UserError
from gmt.runs.drop import RANDOM, RESCALED, SMALLEST, WAYS, drop, drop_
from tests.finished import finish, plan_of
from tests.models import pretrained


def tuned() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {n: p.detach() + torch.randn(p.shape) for n, p in pretrained().base().named_parameters()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fraction", [0, 0.29, 0.9])
def test_so_many_entries_of_each_tensor_are_the_bases(way: str, fraction: float) -> None:
    model, base, weights = pretrained().load_model(), dict(pretrained().base().named_parameters()), tuned()
    drop_(model, weights, way, fraction, seed=1)
    for name, parameter in model.named_parameters():
        moved = parameter != base[name]
        assert int((~moved).sum()) == int(fraction * parameter.numel() + 1e-6)
        trained = base[name] + (weights[name] - base[name]) / (1 - fraction) if way == RESCALED else weights[name]
        assert torch.equal(parameter[moved], trained[moved])


def test_the_smallest_are_dropped() -> None:
    model, base, weights = pretrained().load_model(), dict(pretrained().base().named_parameters()), tuned()
    drop_(model, weights, SMALLEST, 0.5, seed=1)
    for name, parameter in model.named_parameters():
        size, moved = (weights[name] - base[name]).abs(), parameter != base[name]
        assert size[moved].min() >= size[~moved].max()


def test_a_random_drop_is_that_of_its_seed() -> None:
    models = [pretrained().load_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        drop_(model, tuned(), RANDOM, 0.5, seed=seed)
    same, again, other = ([p.sum().item() for p in model.parameters()] for model in models)
    assert same == again != other


def test_what_cannot_be_dropped_is_a_sentence(tmp_path: Path) -> None:
    (planned,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    with pytest.raises(UserError, match="needs a finished run"):
        drop(planned.run, [0.5])
    finish(planned, 0.7)
    with pytest.raises(UserError, match=r"record\.keep_weights=true"):
        drop(planned.run, [0.5])
    (planned.record.folder / "weights").mkdir()
    with pytest.raises(UserError, match=r"must lie in \[0, 1\), got 1"):
        drop(planned.run, [1])
    with pytest.raises(UserError, match="a one-off drop is one of random; random, rescaled; smallest, got largest"):
        drop(planned.run, [0.5], ["largest"])

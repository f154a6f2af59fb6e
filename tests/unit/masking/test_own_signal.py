"""A signal from outside ranks entries as one of ours does."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.masking import MaskSpec, NonFiniteGradientError, Signal, attach
from gmt.runs.build import build


@dataclass(frozen=True, kw_only=True)
class Saliency:
    """|w * g|, as `weight_times_gradient`."""

    power: float = 1.0

    def score(self, weight_N: Tensor, gradient_N: Tensor) -> Tensor:
        return (weight_N * gradient_N).abs() ** self.power


class OneNumber:
    def score(self, weight_N: Tensor, gradient_N: Tensor) -> Tensor:
        return gradient_N.sum()


class NotANumber:
    def score(self, weight_N: Tensor, gradient_N: Tensor) -> Tensor:
        return gradient_N / 0


def trained(signal: str | Signal, scope: str = "tensor") -> list[Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.6, signal=signal, scope=scope), facts_every=1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 14).view(2, 7)).pow(2).sum().backward()
        optimizer.step()
        assert mask.facts() is not None
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_a_signal_of_ones_own_trains_as_the_same_one_of_ours(scope: str) -> None:
    for own, ours in zip(trained(Saliency(), scope), trained("weight_times_gradient", scope), strict=True):
        assert torch.equal(own, ours)


def test_a_score_of_another_shape_is_refused_with_its_class() -> None:
    with pytest.raises(ValueError, match=r"signal: OneNumber\.score must give one number for each of \d+ entries"):
        trained(OneNumber())


def test_a_score_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(NonFiniteGradientError, match="NaN or Inf at step 1"):
        trained(NotANumber())


def test_its_class_is_named_by_a_yaml_and_its_settings_are_in_the_run_id() -> None:
    with hydra_on(None):
        config = Composer().compose_plain(["method=gmt"])
    ids = set()
    for power in (1.0, 2.0):
        own = {"_target_": f"{__name__}.Saliency", "power": power}
        ids.add(build(config | {"method": config["method"] | {"signal": own}}).id)
    assert len(ids) == 2
    wrong = config["method"] | {"signal": {"_target_": f"{__name__}.Saliency", "powr": 1}}
    with pytest.raises(UserError, match=r"method\.signal has no setting 'powr'; did you mean 'power'"):
        build(config | {"method": wrong})

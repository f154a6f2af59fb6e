"""Masks that need whole parameters are refused, when they are planned, where there are none."""

from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import build


def composed(*overrides: str) -> dict[str, Any]:
    with hydra_on(None):
        return Composer().compose_plain(list(overrides))


@pytest.mark.parametrize(
    ("overrides", "which"),
    [
        (["method=rmt", "method.grain=row"], "method.grain=row"),
        (["method=lift", "method.moments=masked", "method.age=global"], "method.signal=LowRankWeight"),
        (["method=wanda"], "method.signal=weight_times_input"),
    ],
)
def test_a_mask_of_whole_parameters_is_refused_with_sharded_ones(overrides: list[str], which: str) -> None:
    sharded = ["resources.sharding=fsdp", "resources.workers=2", "train.accumulation_steps=2"]
    with pytest.raises(UserError) as caught:
        build(composed(*overrides, *sharded))
    assert f"resources.sharding must be none for {which}, which ranks whole parameters, got fsdp" in str(caught.value)
    build(composed(*overrides, *sharded[1:]))
    build(composed(*overrides, *sharded, "method.mask_ratio=0"))


@pytest.mark.parametrize("method", ["rmt", "skip_update"])
def test_random_controls_of_each_structure_are_settings(method: str) -> None:
    config = composed(f"method={method}", "method.parameters=linear", "method.scope=global")
    grains = ["entry", "row", "column", "head", "tensor"]
    ids = {build(config | {"method": config["method"] | {"grain": grain}}).id for grain in grains}
    assert len(ids) == len(grains)


def test_a_rule_of_a_nested_signal_is_said_with_its_setting() -> None:
    with pytest.raises(UserError, match=r"method\.signal.*rank must be a whole number of at least 1, got 0"):
        build(composed("method=lift", "method.signal.rank=0"))

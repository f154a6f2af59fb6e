"""Masks that need whole parameters or source prompts are refused, when they are planned, where there are none."""

from types import SimpleNamespace
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import build
from gmt.runs.prepare import prepare
from gmt.tasks.protocol import Suite


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


def test_a_task_without_source_prompts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("method=ssu")
    asks_itself, suite = object(), Suite(name="a", prompts=["1 + 1 ="], score=lambda i, text: 0.0, max_new_tokens=1)

    def prepared_with(**source: object) -> Any:
        prepared = SimpleNamespace(suites={"target": {}, "source": source})
        monkeypatch.setattr("gmt.runs.prepare._prepare", lambda key: prepared)
        return prepare(build(config))

    prepared_with(benchmark=asks_itself, suite=suite)
    sentence = (
        "^method ssu must have a task with source prompts, which it is calibrated on, and task long_words has none: "
        "its source evaluations ask in their own way$"
    )
    with pytest.raises(UserError, match=sentence):
        prepared_with(benchmark=asks_itself)
    config["method"]["calibration"] = "training"
    prepared_with(benchmark=asks_itself)

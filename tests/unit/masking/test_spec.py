"""The settings of a mask, each with its rule."""

from typing import Any

import pytest

from gmt.masking import MaskSpec


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, float("nan"), "0.5", True, None])
def test_a_ratio_outside_its_interval_is_refused(ratio: Any) -> None:
    with pytest.raises(ValueError, match=r"^mask_ratio must lie in \[0, 1\), got"):
        MaskSpec(mask_ratio=ratio)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("signal", "grad", "signal must be one of gradient, accumulated_gradient, random, .*, got 'grad'"),
        ("scope", "model", "scope must be one of tensor, layer, global, entropy, got 'model'"),
        ("refresh", 0, "refresh must be a whole number of steps from 1 on, or once, got 0"),
        ("refresh", 1.5, "refresh must be a whole number"),
        ("refresh", True, "refresh must be a whole number"),
        ("refresh", "never", "refresh must be a whole number"),
        ("mask_on", "weights", "mask_on must be one of gradient, update, got 'weights'"),
        ("moments", "none", "moments must be one of dense, masked, packed, got 'none'"),
        ("keep", "top", "keep must be one of largest, smallest, got 'top'"),
        ("exclude", "*.bias", "exclude must be a list of name patterns, got"),
        ("exclude", [1], "exclude must be a list of name patterns, got"),
        ("exclude", [""], "exclude must be a list of name patterns, got"),
        ("excluded", "skipped", "excluded must be one of dense, frozen, got 'skipped'"),
        ("excluded", "frozen", "excluded=frozen needs patterns in exclude"),
    ],
)
def test_each_setting_says_its_rule(setting: str, value: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        MaskSpec(mask_ratio=0.5, **{setting: value})


def test_refreshes_fall_on_the_steps_that_were_asked_for() -> None:
    def steps(refresh: int | str) -> list[int]:
        return [step for step in range(7) if MaskSpec(mask_ratio=0.5, refresh=refresh).is_refreshed_at(step)]

    assert steps(1) == [0, 1, 2, 3, 4, 5, 6]
    assert steps(3) == [0, 3, 6]
    assert steps("once") == [0]

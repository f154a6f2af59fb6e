"""METHODS' law of the start: before its first step a model in the shape of an arm computes as the base does."""

import pytest

from gmt.config_dir import config_dir
from recipes.methods_page import BEGINS, read_head
from tests.arms import ARMS, begins_as_base


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_begins_as_the_base_or_its_head_says_how(arm: str) -> None:
    head = read_head((config_dir() / "method" / f"{arm}.yaml").read_text(encoding="utf-8"))
    assert begins_as_base(arm) == (BEGINS not in head.cells)


def test_few_arms_begin_otherwise() -> None:
    """Learnt masks, and vectors before a text."""
    assert sum(not begins_as_base(arm) for arm in ARMS) == 3

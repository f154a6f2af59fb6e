"""The order in which a sweep does its runs."""

from pathlib import Path

import pytest

from gmt.studies.sweep import in_turns
from tests.finished import plan_of


@pytest.mark.parametrize(("num_arms", "num_seeds"), [(1, 3), (2, 5), (3, 3), (7, 2)])
def test_each_seed_begins_with_another_arm_and_no_run_is_lost(tmp_path: Path, num_arms: int, num_seeds: int) -> None:
    arms = {f"arm{i}": {"method": "gmt", "method.mask_ratio": i / 20} for i in range(num_arms)}
    plan = plan_of(tmp_path, arms, list(range(num_seeds)))
    ordered = in_turns(plan.runs)
    assert sorted(p.run.id for p in ordered) == sorted(p.run.id for p in plan.runs)
    assert [p.run.seed for p in ordered] == [seed for seed in range(num_seeds) for _ in range(num_arms)]
    first = [p.point.arm for p in ordered[::num_arms]]
    assert first[0] == "arm0"
    assert len(set(first)) == min(num_arms, num_seeds)
    for start in range(0, len(ordered), num_arms):  # in the plan's order, from there on and around
        numbers = [int(p.point.arm.removeprefix("arm")) for p in ordered[start : start + num_arms]]
        assert numbers == [(numbers[0] + i) % num_arms for i in range(num_arms)]

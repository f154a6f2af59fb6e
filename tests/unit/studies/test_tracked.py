"""The description of a study fits into the longest text that MLflow stores."""

import pytest

from gmt.studies.plan import Plan
from gmt.studies.tracked import describe
from gmt.tracking.views import LONGEST_DESCRIPTION
from tests.finished import plan_of


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    arms = {f"arm_{number}": {"method": "gmt", "method.mask_ratio": (number + 1) / 100} for number in range(54)}
    return plan_of(tmp_path_factory.mktemp("root"), arms, [1])


def test_all_arms_are_described_where_there_is_room(plan: Plan) -> None:
    text = describe(plan, "The result.")
    assert text.startswith("The result.\n\n## Question\n")
    assert "- `arm_53`, method: gmt, method.mask_ratio: 0.54\n" in text
    assert "more of" not in text


def test_of_many_arms_the_last_are_left_out_before_the_result_is(plan: Plan) -> None:
    result = "\n".join(["A sentence of the result."] * 250)
    text = describe(plan, result)
    assert text.startswith(result)
    assert LONGEST_DESCRIPTION - 60 < len(text) <= LONGEST_DESCRIPTION
    num_shown = text.count("- `arm_")
    assert f"- and {54 - num_shown} more of 54 arms: `gmt plan study=made` lists all\n" in text


def test_a_result_that_is_too_long_is_cut_after_a_line(plan: Plan) -> None:
    text = describe(plan, "\n".join(["A sentence of the result."] * 1000))
    assert LONGEST_DESCRIPTION - 60 < len(text) <= LONGEST_DESCRIPTION
    assert "A sentence of the result.\n\n`gmt show study=made` shows the rest.\n\n## Question\n" in text
    assert "- and 54 more of 54 arms: `gmt plan study=made` lists all\n" in text

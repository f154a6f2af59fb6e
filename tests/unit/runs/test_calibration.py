"""A method that is calibrated on source prompts sees none that its run is evaluated on."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import build
from gmt.runs.calibration import calibration_prompts
from gmt.runs.prepare import prepare
from gmt.tasks.protocol import Suite
from tests.unit.tasks.test_dataset import data, write
from tests.unit.tasks.test_held_out import held_out
from tests.unit.tasks.test_reasoning_gym import SMALL_SUMS, task


def suite(*prompts: str, others: Sequence[str] | None = None) -> Suite:
    drawn = None if others is None else lambda: others
    return Suite(name="a", prompts=prompts, score=lambda i, text: 0.0, max_new_tokens=1, further_prompts=drawn)


def test_no_prompt_of_any_suite_is_among_them_and_no_more_than_the_suite_has() -> None:
    source = {"sums": suite("1", "2", others=["1", "3", "4", "5", "6"]), "asked": suite("7", others=["7"])}
    suites = {"target": {"t": suite("3")}, "source": {**source, "fixed": suite("8"), "benchmark": object()}}
    assert calibration_prompts(suites) == {"sums": ["4", "5"]}  # type: ignore[arg-type]


def test_a_family_draws_others_and_leaves_out_what_is_evaluated() -> None:
    suites = task(target={"sums": SMALL_SUMS | {"num_examples": 20}}).suites()
    found = calibration_prompts(suites)["sums"]
    assert found
    assert not {p for part in suites.values() for each in part.values() for p in each.prompts} & set(found)  # type: ignore[union-attr]
    assert found == calibration_prompts(suites)["sums"]


def test_held_out_questions_have_the_other_rows(tmp_path: Any) -> None:
    path = write(tmp_path, [{"q": f"{i}?", "a": str(i)} for i in range(9)])
    some = held_out(path, data={**data(path), "num_examples": 4}, prompt_template="Q {prompt}").suite("own")
    found = calibration_prompts({"target": {}, "source": {"own": some}})["own"]
    assert found
    assert set(found) <= {f"Q {i}?" for i in range(9)} - set(some.prompts)
    assert calibration_prompts({"target": {}, "source": {"own": held_out(path).suite("own")}}) == {}


def test_a_task_without_other_source_prompts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with hydra_on(None):
        config = Composer().compose_plain(["method=ssu"])
    checked: list[Sequence[str]] = []
    monkeypatch.setattr("gmt.runs.calibration.check_suite", lambda suite, reader: checked.append(suite.prompts))

    def prepared_with(**source: object) -> Any:
        prepared = SimpleNamespace(suites={"target": {}, "source": source}, reader=None)
        monkeypatch.setattr("gmt.runs.prepare._prepare", lambda key: prepared)
        return prepare(build(config))

    asks_itself = object()
    prepared_with(benchmark=asks_itself, suite=suite("1 + 1 =", others=["2 + 2 ="]))
    assert checked == [["2 + 2 ="]]
    sentence = "^method ssu must have a task with source prompts to be calibrated on, and task long_words has none: "
    with pytest.raises(
        UserError, match=sentence + "its source evaluations are benchmarks, which make their own prompts$"
    ):
        prepared_with(benchmark=asks_itself)
    for others in (None, ["1 + 1 ="]):
        with pytest.raises(UserError, match=sentence + "its source suites have no prompts beyond those"):
            prepared_with(suite=suite("1 + 1 =", others=others))
    config["method"]["calibration"] = "training"
    prepared_with(benchmark=asks_itself)

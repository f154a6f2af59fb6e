"""The typed table's columns, made from results as runs write them."""

from dataclasses import replace
from pathlib import Path

import pytest

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.records.result import Result
from gmt.tracking.outcomes import final_metrics, result_columns
from gmt.tracking.table import left_out, read_table
from tests.finished import RESULT, finish, plan_of


def result(**metrics: float) -> Result:
    """Return a result with these metrics before a training, and with twice their values after it."""
    named = {f"eval/{name.replace('__', '/')}": value for name, value in metrics.items()}
    return replace(RESULT, metrics={"before": named, "after": {name: 2 * value for name, value in named.items()}})


def test_perplexities_of_source_texts_are_one_number() -> None:
    found = result_columns(result(source__a_perplexity=4, source__b_word_perplexity=9, target__c_perplexity=100))
    assert found["source_perplexity_before"] == pytest.approx(6)
    assert found["source_perplexity_after"] == pytest.approx(12)


def test_what_a_run_does_not_have_is_missing_and_no_metric() -> None:
    made = result(source__facts_exact_match=0.5)
    assert result_columns(made)["source_perplexity_after"] is None
    assert not {"result/source_perplexity_after", "result/target_density"} & set(final_metrics(made))


def test_the_entries_that_train_and_the_optimizers_bytes_are_columns_and_metrics() -> None:
    assert RESULT.training is not None
    counts = {"optimizer_state_bytes": 400, "num_trained": 12.5, "num_touched": 30}
    made = replace(RESULT, training=replace(RESULT.training, **counts))
    assert counts.items() <= result_columns(made).items()
    assert {f"result/{name}": value for name, value in counts.items()}.items() <= final_metrics(made).items()
    assert Result.from_json(made.to_json()) == made


def test_a_result_is_read_by_the_names_of_older_versions() -> None:
    stored = RESULT.to_json() | {"target_density": 0.2}
    stored["density_asked"] = stored.pop("target_density")
    assert Result.from_json(stored).target_density == 0.2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_perplexity_that_is_no_number_leaves_the_run_without_a_score(tmp_path: Path, value: float) -> None:
    (planned,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    finish(planned, 0.5)
    result = planned.record.read("result.json")
    result["metrics"]["after"]["eval/source/texts_perplexity"] = value
    planned.record.write("result.json", result)
    planned.record.finish()
    table = read_table([("sft", "sft seed=1", planned.record)], axis=Axis())
    assert (table["state"][0], table["target_after"].isna().all()) == ("without a score", True)


def test_no_run_occurs_in_a_table_twice(tmp_path: Path) -> None:
    (planned,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    with pytest.raises(UserError, match=f"a run must occur only once in a table, got {planned.run.id} as a and b"):
        read_table([("x", "a", planned.record), ("y", "b", planned.record)], axis=Axis())


def test_a_dirty_run_has_numbers_only_if_they_are_asked_for(tmp_path: Path) -> None:
    (planned,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    finish(planned, 0.5, dirty=True)
    runs = [("sft", "sft seed=1", planned.record)]
    without, with_it = read_table(runs, axis=Axis()), read_table(runs, axis=Axis(), dirty=True)
    assert (without["state"][0], with_it["state"][0]) == ("dirty", "done")
    assert without["target_after"].isna().all()
    assert with_it["target_after"][0] == 0.5
    asked_for = "made in a checkout with uncommitted changes, which --dirty counts"
    assert left_out(without) == [f"1 of 1 runs are left out of all numbers here: 1 {asked_for} (sft seed=1)."]
    assert left_out(with_it) == []

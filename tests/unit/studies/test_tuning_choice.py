"""Tuning chooses the best mean within the bound on forgetting, for each arm or for each point."""

from typing import Any

import hypothesis.strategies as st
import pytest
from gmt_analysis.limits import limits_of_tuning
from hypothesis import given

from gmt.studies.plan import Plan, broken
from gmt.studies.tracked import describe
from gmt.studies.trial_score import WORST, TrialScore, best_of, mean_score, trial_score
from gmt.studies.tuning import TuningSettings
from gmt.studies.tuning_words import budget_in_words, tuned_in_words
from tests.finished import finish
from tests.unit.studies.conftest import ARMS, TUNING, Planner

pytestmark = pytest.mark.heavy

VALUES = (1e-4, 1e-3, 1e-2)


def try_all(plan: Plan, scores: dict[Any, tuple[float, float]]) -> None:
    """Finish the tuning runs with target and source scores by (mask ratio, value), or by (ratio, value, seed)."""
    for planned_run in plan.runs:
        ratio, value = planned_run.run.config["method"].get("mask_ratio"), planned_run.run.train.learning_rate
        key = (ratio, value, planned_run.run.seed)
        finish(planned_run, *(scores[key] if key in scores else scores[key[:2]]))


def same_for_every_ratio(*scores: tuple[float, float]) -> dict[Any, tuple[float, float]]:
    return {(r, v): score for r in (None, 0.5, 0.9) for v, score in zip(VALUES, scores, strict=True)}


def chosen(plan: Plan) -> dict[str, float | None]:
    return {tuned.label: tuned.best for tuned in plan.tuned}


# The rule

unit = st.integers(0, 100).map(lambda percent: percent / 100)
scores_of_values = st.lists(st.tuples(unit, unit), min_size=1, max_size=8)


@given(scores_of_values, unit | st.none())
def test_the_best_target_within_the_bound_wins_or_else_the_least_forgetting(
    given_scores: list[tuple[float, float]], bound: float | None
) -> None:
    scores = {float(i): TrialScore(target=t, forgetting=f) for i, (t, f) in enumerate(given_scores)}
    best = scores[best_of({value: score.rank(bound) for value, score in scores.items()})]
    within = [s for s in scores.values() if bound is None or s.forgetting <= bound]
    if within:
        assert best in within
        assert best.target == max(score.target for score in within)
    else:
        assert best.forgetting == min(score.forgetting for score in scores.values())


@given(scores_of_values, unit | st.none())
def test_the_first_of_equal_values_is_chosen(given_scores: list[tuple[float, float]], bound: float | None) -> None:
    ranks = {float(i): TrialScore(target=t, forgetting=f).rank(bound) for i, (t, f) in enumerate(given_scores)}
    assert best_of(ranks) == min(value for value, rank in ranks.items() if rank == max(ranks.values()))


def test_forgetting_equal_to_the_bound_is_within_it() -> None:
    mean = mean_score([TrialScore(target=1, forgetting=0.4 - 0.3), TrialScore(target=0, forgetting=0.1)])
    assert mean.target == 0.5
    assert mean.is_within(0.1)


def test_a_run_that_diverged_or_has_nan_has_the_worst_scores(planned: Planner) -> None:
    first, second, third, *_ = planned().runs
    finish(first, float("nan"))
    second.record.create(second.run.science, second.run.config)
    second.record.set_status("diverged")
    assert (trial_score(first.record), trial_score(second.record)) == (WORST, WORST)
    assert trial_score(third.record) is None


# The tried values, and the runs that get the chosen one


def test_each_value_is_tried_on_each_tuning_seed_and_the_mean_counts(planned: Planner) -> None:
    first = planned()
    assert (len(first.runs), len(first.later)) == (3 * 3 * 2, 3 * 2)
    assert first.runs[1].point.label == "sft seed=12 learning_rate=0.0001 (tuning)"
    assert budget_in_words(first.tuned) == "Tuning takes 18 runs for 3 choices, on seeds 11, 12."
    scores = same_for_every_ratio((0.5, 0.9), (0.6, 0.9), (0.4, 0.9))
    scores |= {(0.9, 1e-4, 11): (0.9, 0.9), (0.9, 1e-4, 12): (0.2, 0.9)}  # 0.55 in the mean
    scores |= {(0.5, 1e-2, 11): (0.9, 0.9), (0.5, 1e-2, 12): (0.4, 0.9)}  # 0.65
    try_all(first, scores)
    made = planned()
    assert chosen(made) == {"sft": 1e-3, "gmt mask_ratio=0.5": 1e-2, "gmt mask_ratio=0.9": 1e-3}
    assert (made.later, len(made.comparison), made.identity) == ([], 6, first.identity)
    doubt = "at an end of the interval, so a better value may lie outside"
    values = f"sft 0.001, gmt mask_ratio=0.5 0.01 ({doubt}), gmt mask_ratio=0.9 0.001."
    assert describe(made).endswith(f"Tuned train.learning_rate: {values}")


def test_no_value_is_chosen_before_all_seeds_of_all_values_are_done(planned: Planner) -> None:
    for planned_run in planned().runs[:-1]:
        finish(planned_run, 0.5)
    made = planned()
    assert chosen(made) == {"sft": 1e-4, "gmt mask_ratio=0.5": 1e-4, "gmt mask_ratio=0.9": None}
    assert (made.tuned[2].num_done, made.tuned[2].num_runs, len(made.later)) == (5, 6, 2)


def test_an_arm_has_one_value_by_the_mean_over_the_axis(planned: Planner) -> None:
    first = planned(value_per="arm")
    assert (len(first.runs), [tuned.label for tuned in first.tuned]) == (18, ["sft", "gmt"])
    scores = same_for_every_ratio((0.5, 0.9), (0.6, 0.9), (0.4, 0.9)) | {(0.9, 1e-4): (0.8, 0.9)}
    try_all(first, scores)
    made = planned(value_per="arm")
    assert chosen(made) == {"sft": 1e-3, "gmt": 1e-4}  # 0.65 at 1e-4, 0.6 at 1e-3
    rates = {
        (p.point.arm, p.run.config["method"].get("mask_ratio")): p.run.train.learning_rate for p in made.comparison
    }
    assert rates == {("sft", None): 1e-3, ("gmt", 0.5): 1e-4, ("gmt", 0.9): 1e-4}


def test_a_value_beyond_the_bound_on_forgetting_is_chosen_only_if_all_values_are_beyond_it(planned: Planner) -> None:
    first = planned(forgetting_bound=0.1)
    scores = same_for_every_ratio((0.3, 0.94), (0.5, 0.85), (0.9, 0.2))
    scores |= {(0.9, value): (0.9, 0.2 + value) for value in VALUES}
    try_all(first, scores)
    made = planned(forgetting_bound=0.1)
    assert chosen(made) == {"sft": 1e-3, "gmt mask_ratio=0.5": 1e-3, "gmt mask_ratio=0.9": 1e-2}
    assert [tuned.breaks_bound for tuned in made.tuned] == [False, False, True]
    assert "the runs of every value forget more than the bound of 10 points" in tuned_in_words(made.tuned[2], None)
    limit = next(
        sentence for sentence in limits_of_tuning(made) if "runs forgot more than the bound of 10 points" in sentence
    )
    assert limit.endswith("the value with the least forgetting is compared: gmt mask_ratio=0.9.")
    assert "target 50.0%, forgetting 10.0 points in tuning" in tuned_in_words(made.tuned[0], None)
    assert chosen(planned()) == dict.fromkeys(chosen(made), 1e-2) | {"gmt mask_ratio=0.9": 1e-4}


def test_the_grid_is_the_default_and_the_same_for_every_choice(planned: Planner) -> None:
    assert TuningSettings(**TUNING).sampler == "grid"
    assert {tuple(tuned.trials) for tuned in planned().tuned} == {VALUES}


def test_tpe_proposes_later_values_once_earlier_ones_have_all_seeds(planned: Planner) -> None:
    def one() -> Plan:
        return planned({"sft": {"method": "sft"}}, sampler="tpe", runs=4, forgetting_bound=0.1)

    for number in (4, 2, 2):  # two values at once, then one after the other
        todo = [planned_run for planned_run in one().runs if planned_run.record.state() != "done"]
        assert len(todo) == number
        for planned_run in todo:
            finish(planned_run, 0.5, 0.95 - planned_run.run.train.learning_rate * 10)
    assert one().tuned[0].best is not None


def test_a_tuning_run_that_diverged_is_no_failure(planned: Planner) -> None:
    first = planned({"sft": {"method": "sft"}})
    for number, planned_run in enumerate(first.runs):
        planned_run.record.create(planned_run.run.science, planned_run.run.config)
        planned_run.record.set_status("diverged") if number == 5 else finish(planned_run, 0.5)
    made = planned({"sft": {"method": "sft"}})
    assert chosen(made) == {"sft": 1e-4}
    for planned_run in made.comparison:
        finish(planned_run, 0.5)
    assert broken(made, made.states()) == []


# With looks, selections and merges


def test_looks_add_seeds_to_a_choice_at_its_tuned_value(planned: Planner) -> None:
    asked = {"measure": "target", "claim": "better", "arms": ["gmt"], "against": "sft", "tasks": "apart"}

    def made() -> Plan:
        return planned(on=(1, 2, 3), value_per="arm", primary={"q": asked}, looks=[3, 5])

    first = made()
    try_all(first, same_for_every_ratio((0.5, 0.9), (0.6, 0.9), (0.4, 0.9)))
    for planned_run in made().comparison:
        finish(
            planned_run,
            0.5 + planned_run.run.seed / 100 * (planned_run.point.arm == "gmt") * (-1) ** planned_run.run.seed,
        )
    second = made()
    assert {planned_run.run.seed for planned_run in second.comparison} == {1, 2, 3, 4, 5}
    assert {planned_run.run.train.learning_rate for planned_run in second.comparison} == {1e-3}
    assert second.identity == first.identity


def test_tuning_runs_of_an_arm_with_a_selection_use_the_selection(planned: Planner) -> None:
    arms = {"all": {"method": "sft"}, "half": {"method": "sft", "selection": "random"}}
    made = planned(arms)
    assert {(planned_run.point.arm, planned_run.run.selection is None) for planned_run in made.runs} == {
        ("all", True),
        ("half", False),
    }


MERGES: dict[str, dict[str, Any]] = {
    **ARMS,
    "wise": {"from": "sft", "merge": "wise_ft"},
    "soup": {"from": "gmt", "over": "method.mask_ratio", "merge": "soup"},
    "lines": {"from": "soup", "merge": "lines"},
}


def test_merges_have_the_values_of_their_parents_and_no_tuning(planned: Planner) -> None:
    first = planned(MERGES)
    assert (len(first.tuned), len(first.runs), len(first.later)) == (3, 18, 6 + 6)
    try_all(first, same_for_every_ratio((0.5, 0.9), (0.6, 0.9), (0.4, 0.9)) | {(0.9, 1e-2): (0.8, 0.9)})
    made = planned(MERGES)
    assert (made.later, made.identity) == ([], first.identity)
    of_arm = {arm: [planned_run for planned_run in made.comparison if planned_run.point.arm == arm] for arm in MERGES}
    ids = {planned_run.run.id: planned_run for planned_run in made.comparison}
    for wise, sft in zip(of_arm["wise"], of_arm["sft"], strict=True):
        assert (wise.run.parent_ids, wise.run.config["parents"]) == ((sft.run.id,), None)  # as `gmt run` names it
        assert wise.run.train.learning_rate == sft.run.train.learning_rate == 1e-3
    for soup, lines in zip(of_arm["soup"], of_arm["lines"], strict=True):
        parents = [ids[id_].run for id_ in soup.run.parent_ids]
        assert [(parent.seed, parent.train.learning_rate) for parent in parents] == [
            (soup.run.seed, 1e-3),
            (soup.run.seed, 1e-2),
        ]
        assert soup.run.config["over"] == ["method.mask_ratio", "train.learning_rate"]
        assert tuple(lines.run.parent_ids) == (soup.run.id,)


def test_a_merge_waits_for_the_tuning_of_all_its_parents(planned: Planner) -> None:
    for planned_run in planned(MERGES).runs[:12]:  # sft and gmt at 0.5
        finish(planned_run, 0.5)
    made = planned(MERGES)
    assert [planned_run.point.arm for planned_run in made.comparison] == ["sft"] * 2 + ["gmt"] * 2 + ["wise"] * 2
    assert {planned_run.point.arm for planned_run in made.later} == {"gmt", "soup", "lines"}

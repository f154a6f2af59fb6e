"""The stop rule: what is undecided gets seeds up to the next look, whoever plans, and nothing after the last."""

from pathlib import Path
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan
from gmt.studies.primary_power import power_of_plan
from gmt.studies.primary_scores import rows_of_plan, scores_of_rows, task_names
from tests.finished import finish, plan_of

ARMS = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}}
ASKED = {"measure": "target", "claim": "better", "arms": ["gmt"], "against": "sft", "tasks": "apart"}


def planned(root: Path, **given: Any) -> Plan:
    return plan_of(root, ARMS, [1, 2, 3], **{"primary": {"q": ASKED}, "looks": [3, 5]} | given)


def seeds(plan: Plan) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for run in plan.comparison:
        ratio = run.run.config["method"].get("mask_ratio", "")
        found.setdefault(f"{run.point.arm} {ratio}".strip(), []).append(run.run.seed)
    return found


def finish_all(plan: Plan, *, dirty: bool = False) -> None:
    """gmt at 0.5 is better on every seed, and gmt at 0.9 on every other."""
    for run in plan.runs:
        if run.record.state() != "done":
            ratio, seed = run.run.config["method"].get("mask_ratio"), run.run.seed
            finish(run, 0.5 + seed / 1000 + {None: 0, 0.5: 0.3 + seed / 5000, 0.9: (seed % 2) / 10}[ratio], dirty=dirty)


def test_undecided_comparisons_get_more_seeds_until_the_last_look(tmp_path: Path) -> None:
    first = planned(tmp_path)
    assert seeds(first) == {"sft": [1, 2, 3], "gmt 0.5": [1, 2, 3], "gmt 0.9": [1, 2, 3]}
    finish_all(first)
    second = planned(tmp_path)
    assert seeds(second) == {"sft": [1, 2, 3, 4, 5], "gmt 0.5": [1, 2, 3], "gmt 0.9": [1, 2, 3, 4, 5]}
    assert second.identity == first.identity
    finish_all(second)
    assert seeds(planned(tmp_path)) == seeds(second)


def test_nothing_is_added_before_a_look_is_complete_or_once_all_is_decided(tmp_path: Path) -> None:
    first = planned(tmp_path)
    for run in first.runs[1:]:
        finish(run, 0.5)
    assert len(planned(tmp_path).runs) == len(first.runs)
    finish(first.runs[0], 0.5)  # all are equal: refuted
    assert len(planned(tmp_path).runs) == len(first.runs)


def test_a_look_and_the_plans_power_count_the_runs_that_a_report_counts(tmp_path: Path) -> None:
    first = planned(tmp_path)
    finish_all(first, dirty=True)
    assert seeds(planned(tmp_path)) == seeds(first)
    warning, *others = power_of_plan(planned(tmp_path))
    assert warning.startswith("warning: 9 finished runs were made in a checkout with uncommitted changes: no answer")
    assert any("finish runs, to get the probability" in sentence for sentence in others)
    for run in first.runs:
        finish(run, float("nan") if run is first.runs[0] else 0.5 + run.run.seed / 1000)
    assert "pooled over" not in " ".join(power_of_plan(planned(tmp_path, looks=[])))  # one has no score
    second = planned(tmp_path)
    assert len(seeds(second)["sft"]) == 5  # it is over, and its pair is lacking


def test_draws_of_the_questions_are_tasks_apart(tmp_path: Path) -> None:
    arms = {arm: settings | {"task.question_seed": [1, 2]} for arm, settings in ARMS.items()}
    plan = plan_of(tmp_path, arms, [1, 2, 3], primary={"q": ASKED})
    finish_all(plan)
    assert next(iter(power_of_plan(plan))) == "primary question q: 4 comparisons over 3 seeds"
    rows = list(rows_of_plan(plan, task_names(plan.comparison)))
    assert {row["task"] for row in rows} == {"long_words, questions 1", "long_words, questions 2"}
    assert all(len(own) == 3 for own in scores_of_rows(rows, "target").values())


def test_looks_share_the_level(tmp_path: Path) -> None:
    plan = planned(tmp_path, primary={"q": ASKED, "r": ASKED})
    assert plan.study.level == pytest.approx(0.05 / 4)
    said = list(power_of_plan(plan))
    assert said[0] == "primary question q: 2 comparisons over 5 seeds, with looks at 3 seeds that share the level"


def test_a_question_that_overrides_leave_without_comparisons_is_named(tmp_path: Path) -> None:
    for looks in ([], [3, 5]):
        asked: dict[str, Any] = {"primary": {"q": {**ASKED, "values": [0.5]}}, "looks": looks}
        study = StudySettings(name="s", question="?", shared={"seed": [1, 2, 3]}, arms=ARMS, **asked)
        with hydra_on(None):
            plan = make_plan(Composer(), study, {"record.root": [str(tmp_path)], "method.mask_ratio": ["0.9"]})
        assert list(power_of_plan(plan)) == [
            "warning: primary question q has no comparison in this plan, so it is not tested"
        ]


def test_power_at_a_target_score_uses_the_halved_level_of_the_verdict(tmp_path: Path) -> None:
    asked = {**ASKED, "measure": "forgetting", "margin": 0.05, "deviation": 0.02}
    plan = planned(tmp_path, looks=[], primary={"q": asked, "r": {**asked, "target_margin": 0.02}})
    whole, halved = (text for text in power_of_plan(plan) if "with a probability of 0." in text)
    assert "is shown with a probability" in whole
    assert "is shown, before the condition on the target score, with a probability" in halved
    assert _probability(halved) < _probability(whole)


def test_questions_of_pooled_tasks_blur_their_mean_less(tmp_path: Path) -> None:
    # 300 and 200 target questions: half an interval is 1.96 * sqrt(0.25 / 300) = 5.66 points, and 6.93; the mean:
    # sqrt(5.66**2 + 6.93**2) / 2 = 4.47
    arms = {arm: settings | {"task": ["long_words", "three_sums"]} for arm, settings in ARMS.items()}
    questions = {name: ASKED | {"tasks": name, "margin": 0.03} for name in ("apart", "pooled")}
    plan = plan_of(tmp_path, arms, [1, 2, 3], primary=questions)
    apart, pooled = (text for text in power_of_plan(plan) if "would move a difference" in text)
    assert apart.startswith("warning: apart: other test questions")
    noise = (
        "± 5.7 points on long_words (300 questions), ± 6.9 points on three_sums (200 questions), more than the margin "
    )
    assert f"{noise}of 3 points, if" in apart
    assert "± 4.5 points on the mean over 2 tasks (500 questions), more than the margin of 3 points, if" in pooled


def _probability(text: str) -> float:
    return float(text.partition("with a probability of ")[2].partition(",")[0])


def test_bad_looks_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must begin with the number of seeds that the study lists, 3, got 4"):
        planned(tmp_path, looks=[4, 8])
    with pytest.raises(UserError, match=r"study.looks must list growing numbers of seeds, got \[5, 3\]"):
        planned(tmp_path, looks=[5, 3])
    with pytest.raises(UserError, match=r"study.looks must be a whole number of at least 3, got 2"):
        planned(tmp_path, looks=[2, 3])
    with pytest.raises(UserError, match=r"study.looks needs study.primary"):
        StudySettings(name="s", question="?", shared={}, arms={"a": {}}, looks=[3])

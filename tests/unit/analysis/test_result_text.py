"""The result of a study as text, which `gmt sweep`, `gmt show study=NAME` and the page in MLflow show."""

import re
from pathlib import Path
from typing import Any

import pytest
from gmt_analysis.leading import leading_sentences
from gmt_analysis.limits import limits
from gmt_analysis.means_text import means_by_step, means_markdown, means_text, steps_of
from gmt_analysis.notebook import ask
from gmt_analysis.results import Results
from gmt_analysis.sample_answers import sample_answers
from gmt_analysis.set_up import set_up
from gmt_analysis.suites import means_by_suite
from gmt_analysis.tables import html_suites

from gmt.errors import UserError
from gmt.studies.opened import planned as plan_of_words
from gmt.studies.plan import Plan
from tests.conftest import CONF
from tests.finished import finish, plan_of

ARMS = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}}
TARGETS = {None: 0.7, 0.5: 0.8, 0.9: 0.6}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Return a finished plan of three choices with three seeds; gmt 0.5 is the best, and sft forgets the most."""
    made = plan_of(tmp_path, ARMS, [1, 2, 3])
    for planned in made.runs:
        ratio = planned.run.config["method"].get("mask_ratio")
        finish(planned, TARGETS[ratio] + planned.run.seed / 1000, 0.5 if ratio is None else 0.8)
    return made


def test_the_best_choice_comes_first_and_the_baseline_is_never_left_out(plan: Plan) -> None:
    results = Results(plan)
    lines = means_text(results).splitlines()
    assert lines[0] == "long_words (base 10.0)"
    assert [line.split("  ")[0] for line in lines[2:]] == ["gmt 0.5", "sft (baseline)", "gmt 0.9"]
    assert "80.2 (80.1 to 80.3)" in lines[2]
    short = means_text(results, most=1)
    assert "sft (baseline)" in short
    assert "... and 1 more: `gmt show study=made` shows all" in short
    assert "| gmt 0.5 | 3 | 80.2 (80.1 to 80.3) | 15.0 |" in means_markdown(results)


def test_a_study_without_a_primary_question_is_answered_by_means_and_counts(plan: Plan) -> None:
    best, tests = leading_sentences(Results(plan))
    assert best == "Highest mean target score: gmt 0.5 with 80.2 % on long_words (sft 70.2 %)."
    assert "Against sft, target score of 2 choices:" in tests
    assert "exploratory" in tests


def test_a_note_on_the_whole_study_appears_once(tmp_path: Path) -> None:
    asked = {"measure": "target", "claim": "better", "arms": ["gmt"], "against": "sft", "tasks": "apart"}
    made = plan_of(tmp_path, ARMS, [1, 2, 3], primary={"q": asked, "r": {**asked, "claim": "equivalent"}})
    for planned in made.runs[1:]:
        finish(planned, 0.5)
    assert sum(sentence.startswith("Preliminary") for sentence in leading_sentences(Results(made))) == 1


def test_a_report_leaves_out_wrong_primary_questions_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They can get into a yaml after its sweep; `gmt plan` and `gmt sweep` refuse them."""
    monkeypatch.chdir(tmp_path)
    for planned in plan_of_words(["study=tiny", "seed=1,2,3"], str(CONF))[0].runs:
        finish(planned, 0.5 + planned.run.seed / 100)
    valid = "valid:{measure:target,claim:better,arms:[gmt],against:sft,tasks:apart,margin:0.1}"
    wide = valid.replace("0.1", "2").replace("valid", "wide")
    gone = valid.replace("gmt", "gone").replace("valid", "gone")
    words = ["study=tiny", "seed=1,2,3", f"+study.primary={{{valid},{wide},{gone}}}", "+study.looks=[3,4]"]
    faults = [
        "study.primary.wide.margin must lie in (0, 1), got 2",
        "study.primary.gone.arms must name arms of the study, got 'gone'; choices: gmt, hft, sft",
    ]
    with pytest.raises(UserError, match=re.escape(faults[0])):
        plan_of_words(words, str(CONF))
    results = Results(plan_of_words(words, str(CONF), leave_out=True)[0])
    first, second, answer, *_ = leading_sentences(results)
    assert (first, second) == tuple(
        f"Not answered: primary question {name} is declared in a way that does not fit this study: {fault}."
        for name, fault in zip(("wide", "gone"), faults, strict=True)
    )
    assert answer.startswith("Is the target score of gmt higher than that of sft")
    assert results.plan.level == pytest.approx(
        0.05 / 3 / 2
    )  # questions that are left out keep their share of the level
    words[2] = "+study.primary=wrong"
    first, _, tests = leading_sentences(Results(plan_of_words(words, str(CONF), leave_out=True)[0]))
    assert first.startswith(
        "Not answered: the primary questions are declared in a way that does not fit this study: study.primary must be "
        "a mapping"
    )
    assert tests.endswith("No primary question can be answered, so that all tests are exploratory.")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"marginn": 1}, "study.primary.exploratory has no setting 'marginn'"),
        ({"arms": ["gmx"]}, "study.primary.exploratory.arms must name arms of the study, got 'gmx'"),
        ({"arms": []}, r"study.primary.exploratory.arms must be a list of arms, or all, got \[\]"),
    ],
)
def test_a_wrong_question_in_a_notebook_raises_one_sentence(plan: Plan, given: dict[str, Any], fault: str) -> None:
    asked = {"measure": "target", "claim": "better", "arms": ["gmt"], "against": "sft"}
    results = Results(plan)
    assert ask(results, **asked).sentences
    with pytest.raises(UserError, match=fault):
        ask(results, **asked | given)


def test_a_merge_over_seeds_has_a_mean_and_is_in_no_test(tmp_path: Path) -> None:
    arms: dict[str, Any] = {"sft": {"method": "sft"}, "hft": {"method": "hft"}}
    plan = plan_of(tmp_path, arms | {"ties": {"from": "sft", "over": "seed", "merge": "ties"}}, [1, 2])
    for planned in plan.runs:
        finish(planned, 0.5 + 0.01 * (planned.run.seed or 0))
    results = Results(plan)
    assert "ties" in means_text(results)
    assert {arm for findings in results.findings for arm in findings.to_baseline["arm"]} == {"hft"}
    sentence = "A merge over seeds has no seed to be paired on, so that no test compares ties."
    assert sentence in limits(results.table, results.summary)


def test_a_suite_that_lost_is_red_and_one_that_gained_is_green(plan: Plan) -> None:
    for planned in plan.runs:
        result = planned.record.read("result.json")
        for when, scores in (("before", {"sums": 0.9, "words": 0.1}), ("after", {"sums": 0.4, "words": 0.6})):
            result[when]["source"] = {"mean": 0.5, **scores}
            named = {f"eval/source/{suite}_exact_match": score for suite, score in scores.items()}
            result["metrics"][when] = {**named, "eval/source/nll_nll": 1.25}
        result["forgetting"] = 0.0
        planned.record.write("result.json", result)
        planned.record.finish()
    results = Results(plan)
    page = html_suites(means_by_suite(results.suites), results.axis)
    assert "source sums, % (base 90.0)" in page
    assert '<td style="background: rgba(213, 94, 0, 0.45)">40.0 <small>-50.0</small></td>' in page
    assert '<td style="background: rgba(0, 158, 115, 0.45)">60.0 <small>+50.0</small></td>' in page
    assert "source nll_nll (base 1.25)" in page
    assert "<td>1.25 <small>+0</small></td>" in page
    assert len(results.suites) == 9 * 3  # without rows for the mean over the suites


def test_the_set_up_has_the_commands_and_settings_of_the_study(plan: Plan) -> None:
    made = set_up(Results(plan), ["study=made", "seed=1,2,3"])
    assert made.commands[1:] == ["gmt sweep study=made seed=1,2,3", "gmt report study=made seed=1,2,3"]
    settings = dict(made.settings)
    assert settings["Seeds"] == "1, 2, 3"
    assert settings["Learning rate"] == "0.002"
    assert settings["Examples in a step"].startswith("32 (2 mini-batches of 16)")
    assert dict(made.arms)["gmt"] == "method=gmt, method.mask_ratio=[0.5, 0.9]"


def test_the_sample_has_the_question_that_the_models_answer_differently(plan: Plan) -> None:
    assert sample_answers(Results(plan)) == []  # these records hold no answers
    for planned in plan.runs:
        answers: list[dict[str, Any]] = [
            {"part": "source", "suite": "sums", "prompt": f"{n}+1", "answer": planned.point.arm, "score": 1.0}
            for n in range(3)
        ]
        planned.record.write_lines("answers_before.jsonl", answers)
        answers[2]["score"] = float(planned.point.arm == "gmt")
        planned.record.write_lines("answers_after.jsonl", answers)
        planned.record.finish()
    (sample,) = sample_answers(Results(plan))
    assert sample.models == ["base", "sft", "gmt 0.5"]
    (question,) = sample.questions
    assert (question.suite, question.prompt) == ("source sums", "2+1")
    assert [answer.score for answer in question.answers] == [1, 0, 1]


def test_a_chart_over_steps_has_a_line_for_each_arm(plan: Plan) -> None:
    means = means_by_step(Results(plan))
    assert means["mean/target/long_words/gmt"] == {50: pytest.approx(0.802), 90: pytest.approx(0.602)}
    assert means["mean/forgetting/long_words/sft"] == {50: pytest.approx(0.45), 90: pytest.approx(0.45)}
    assert steps_of([2, 8, 64]) == {2: 2, 8: 8, 64: 64}
    assert steps_of([1e-4, 1e-3]) == {1e-4: 1, 1e-3: 2}  # no whole percentages, so the places count

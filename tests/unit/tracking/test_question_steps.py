"""The number of questions is read from a run's settings."""

from pathlib import Path

from gmt.tracking.question_steps import numbers_of_questions, question_steps
from tests.finished import plan_of

RIGHT_ANSWERS = {"_target_": "gmt.evaluation.right_answers.RightAnswers", "measure": "nll"}


def test_a_score_changes_most_by_a_question_of_the_smallest_suite(tmp_path: Path) -> None:
    (run,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    assert numbers_of_questions(run.run.config, "target") == [300]
    steps = question_steps(run.run.config)  # five source suites, of which the smallest have 100 questions
    assert steps == {"target_step": 1 / 300, "source_step": 1 / 500}


def test_benchmarks_without_a_score_do_not_count_and_a_part_with_a_suite_of_unknown_size_has_no_step() -> None:
    target = {"own": {"family": "a", "num_examples": 50}, "nll": RIGHT_ANSWERS}
    config = {"task": {"target": target, "source": {"gsm8k": {"_target_": "gmt.evaluation.harness.LmEval"}}}}
    assert question_steps(config) == {"target_step": 1 / 50, "source_step": None}

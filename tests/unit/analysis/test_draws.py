"""Data and questions that are drawn anew make tasks of their own, so that pairs stay pairs."""

from pathlib import Path

from gmt_analysis.results import Results

from tests.finished import finish, plan_of

ARMS = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": 0.5}}


def test_each_draw_of_the_data_is_a_task_and_a_column(tmp_path: Path) -> None:
    draws = {"task.data_seed": [0, 20_000]}
    plan = plan_of(tmp_path, {arm: settings | draws for arm, settings in ARMS.items()}, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5 + planned.run.seed / 100)
    results = Results(plan)
    assert set(results.table["task"]) == {"long_words, data 0", "long_words, data 20000"}
    assert set(results.table["arm"]) == {"sft", "gmt"}
    assert results.table.groupby("data_seed").size().to_dict() == {0: 6, 20_000: 6}
    assert results.table["question_seed"].isna().all()
    assert set(results.suites["task"]) <= set(results.table["task"])
    assert all("baseline arm sft has no" not in sentence for f in results.findings for sentence in f.sentences)


def test_questions_of_their_own_seed_stand_beside_those_by_the_datas(tmp_path: Path) -> None:
    draws = {"task.question_seed": [None, 7]}
    plan = plan_of(tmp_path, {arm: settings | draws for arm, settings in ARMS.items()}, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5)
    assert set(Results(plan).table["task"]) == {"long_words, questions by data_seed", "long_words, questions 7"}


def test_a_task_that_is_drawn_once_keeps_its_name(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5)
    assert set(Results(plan).table["task"]) == {"long_words"}

"""The answers of a record count only if they give its score."""

from pathlib import Path

import numpy as np
from gmt_analysis.right_answers import right_answers

from gmt.records.record import RunRecord
from gmt.verdicts.pairs import Choice
from tests.finished import finish, plan_of

SFT = Choice("sft", None)


def made(tmp_path: Path, scores: list[float], target: float) -> RunRecord:
    (run,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs
    finish(run, target)
    result = run.record.read("result.json")
    result["after"]["target"] = {"long_words": target, "mean": target}
    run.record.write("result.json", result)
    rows = [{"part": "target", "suite": "long_words", "prompt": "?", "answer": "!", "score": each} for each in scores]
    run.record.write_lines("answers_after.jsonl", [*rows, {"part": "source", "suite": "addition", "score": 1}])
    return run.record


def test_right_answers_are_those_with_a_score_of_1(tmp_path: Path) -> None:
    record = made(tmp_path, [1, 0.5, 0, 1], 0.5)
    found = right_answers([(SFT, "t", 1, record)], ["target"])["target"]
    assert np.array_equal(found[SFT, "t"][1]["long_words"], [1, 0, 0, 1])


def test_answers_that_do_not_give_the_score_are_left_out(tmp_path: Path) -> None:
    record = made(tmp_path, [1, 0, 0, 1], 0.7)
    right = right_answers([(SFT, "t", 1, record)], ["target", "forgetting"])
    assert right == {"target": {}, "forgetting": {}}  # the suites of the source have no scores in the result

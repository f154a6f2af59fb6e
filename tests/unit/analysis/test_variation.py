"""The method of moments splits the variance of paired differences into parts; they equal results by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.report import write_report
from gmt_analysis.results import Results
from gmt_analysis.variation import draws_in_words, split_variance, variation

from tests.finished import finish, plan_of

NONE = float("nan")
ARMS = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": 0.5}}


def runs(scores: np.ndarray, *, data: list[int], questions: list[int | None]) -> pd.DataFrame:
    """Return runs of a baseline, and runs of gmt that are better by `scores` [seed, data, questions]."""
    rows = [
        {"arm": arm, "axis": axis, "seed": seed, "data_seed": data[d], "question_seed": questions[q]}
        | {"score": float(seed * d + q + above * scores[seed, d, q])}
        for arm, axis, above in (("sft", NONE, 0), ("gmt", 0.5, 1))
        for seed, d, q in np.ndindex(scores.shape)
    ]
    types = {"axis": "Float64", "seed": "Int64", "data_seed": "Int64", "question_seed": "Int64"}
    return pd.DataFrame(rows).assign(task="t", state="done", model="nano").astype(types)


def test_seeds_and_draws_by_hand() -> None:
    # Means 2 and 7 of the seeds and 3 and 6 of the draws, about 4.5: mean squares 25 and 9, and 1 of the rest.
    values = np.array([[1.0, 3.0], [5.0, 9.0]])
    assert split_variance(values) == ([12.0, 4.0], 1.0)
    (row,) = variation(runs(values[:, :, None], data=[0, 7], questions=[3]), "score", baseline="sft").to_dict("records")
    assert (row["arm"], row["task"], row["axis"], row["difference"]) == ("gmt", "t", 0.5, 4.5)
    assert (row["num_seed"], row["num_data_seed"]) == (2, 2)
    assert (row["deviation_seed"] ** 2, row["deviation_data_seed"] ** 2) == (pytest.approx(12), pytest.approx(4))
    assert (row["deviation_rest"], row["error"] ** 2) == (1, pytest.approx(12 / 2 + 4 / 2 + 1 / 4))
    assert "num_question_seed" not in row


def test_seeds_data_and_questions_by_hand() -> None:
    """Effects of 4, 2 and 1, and a rest that is orthogonal to them, of 8 squares over 4 degrees of freedom."""
    seed, data, questions = np.indices((2, 2, 2))
    values = 4.0 * seed + 2 * data + questions + (-1.0) ** (seed + data + questions)
    parts, rest = split_variance(values)  # mean squares 32, 8 and 2
    assert (parts, rest) == ([(32 - 2) / 4, (8 - 2) / 4, 0.0], 2.0)
    (row,) = variation(runs(values, data=[0, 7], questions=[3, 4]), "score", baseline="sft").to_dict("records")
    assert row["deviation_question_seed"] == 0
    assert row["error"] ** 2 == pytest.approx(7.5 / 2 + 1.5 / 2 + 0 + 2 / 8)


def test_estimates_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    parts = [
        split_variance(rng.normal(0, 3, (5, 1, 1)) + rng.normal(0, 2, (1, 3, 1)) + rng.normal(0, 1, (5, 3, 2)))[0]
        for _ in range(3000)
    ]
    assert np.mean(parts, axis=0) == pytest.approx([9, 4, 0], abs=0.4)  # two standard errors are 0.24, 0.16 and 0.01


def test_only_seeds_with_every_draw_count() -> None:
    values = np.array([[1.0, 3.0], [5.0, 9.0], [2.0, 2.0]])
    whole = runs(values[:, :, None], data=[0, 7], questions=[3])
    lacking = whole[~((whole["arm"] == "gmt") & (whole["seed"] == 2) & (whole["data_seed"] == 7))]
    (row,) = variation(lacking, "score", baseline="sft").to_dict("records")
    assert (row["num_seed"], row["difference"]) == (2, 4.5)
    assert variation(whole[whole["seed"] == 0], "score", baseline="sft").empty
    assert variation(whole[whole["data_seed"] == 0], "score", baseline="sft").empty  # no draws
    assert variation(whole, "score", baseline="hft").empty


def test_questions_that_follow_from_the_data_do_not_count_as_another_draw() -> None:
    values = np.zeros((2, 2, 1))
    assert "Each draw of training data with their questions counts" in draws_in_words(
        runs(values, data=[0, 7], questions=[None])
    )
    both = runs(np.zeros((2, 2, 2)), data=[0, 7], questions=[None, 3])
    assert not draws_in_words(both)
    assert variation(both, "score", baseline="sft").empty
    assert "Each draw of questions counts" in draws_in_words(runs(np.zeros((2, 1, 2)), data=[0], questions=[None, 3]))


@pytest.mark.heavy
def test_a_report_says_what_its_intervals_are_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmt_analysis.report.as_svg", lambda figure: "<svg></svg>")
    monkeypatch.setattr("gmt_analysis.report.as_pdf", lambda figure: b"")
    asked = {"measure": "target", "claim": "better", "arms": ["gmt"], "against": "sft", "tasks": "pooled"}
    arms = {arm: settings | {"task.data_seed": [0, 20_000]} for arm, settings in ARMS.items()}
    plan = plan_of(tmp_path, arms, [1, 2, 3], primary={"q": asked})
    for planned in plan.runs:
        finish(planned, 0.5 + planned.run.seed * (planned.run.method.name == "gmt") / 100)
    (verdict,) = Results(plan).verdicts
    assert "Each draw of training data with their questions counts as a task" in verdict.about
    files = {path.name: path.read_text() for path in write_report(plan).files if path.suffix in (".html", ".csv")}
    assert (
        "<th>Standard deviation over 3 seeds</th><th>Standard deviation over 2 training data</th>"
        in files["index.html"]
    )
    assert files["variation.csv"].count("long_words") == 2  # of both measures

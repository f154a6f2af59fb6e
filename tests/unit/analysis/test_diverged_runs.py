"""Diverged runs count with the base's score, also in tables without a primary question."""

import pandas as pd
import pytest
from gmt_analysis.choices import with_base_scores
from gmt_analysis.equivalence import sensitivity
from gmt_analysis.paired import differences, over_tasks

from gmt.axis import Axis

NONE = float("nan")


def test_diverged_runs_count_with_the_bases_score() -> None:
    """One of gmt's runs diverged: the base's target is 0.1, and its forgetting 0."""
    rows = [
        {"arm": arm, "task": "t", "axis": axis, "seed": seed, "state": "done", "target_before": 0.1}
        | {"target_after": score, "forgetting": 0.2}
        for arm, axis, scores in (
            ("sft", NONE, (0.5, 0.6, 0.7)),
            ("gmt", 0.5, (0.6, 0.8, 0.8)),
            ("gmt", 0.9, (0.5, 0.6, 0.6)),
        )
        for seed, score in enumerate(scores)
    ]
    types = {
        "axis": "Float64",
        "seed": "Int64",
        **dict.fromkeys(("target_before", "target_after", "forgetting"), "Float64"),
    }
    made = pd.DataFrame(rows).astype(types)
    broke = (made["arm"] == "gmt") & (made["axis"] == 0.5) & (made["seed"] == 2)
    made.loc[broke, ["target_before", "target_after", "forgetting"]] = pd.NA
    made.loc[broke, "state"] = "diverged"
    assert differences(made, "target_after", baseline="sft")["n"].tolist() == [2, 3]
    counted = with_base_scores(made)
    for rows in (
        differences(counted, "target_after", baseline="sft"),
        over_tasks(counted, "target_after", baseline="sft"),
    ):
        row = rows.iloc[0]
        assert (row["n"], row["num_diverged"]) == (3, 1)
        assert row["difference"] == pytest.approx((0.1 + 0.2 + 0.1 - 0.7) / 3)
        assert row["without_diverged"] == pytest.approx(0.15)
    assert differences(counted, "forgetting", baseline="sft").iloc[0]["difference"] == pytest.approx(-0.2 / 3)
    (found,) = sensitivity(counted, "target_after", axis=Axis(), margin=0.02)
    assert found.num_seeds == 3
    assert (
        "(runs that diverged, at 0.5, count with the base's score; without them: 2 seeds: sensitivity is not"
        in found.words
    )
    made["state"] = "diverged"
    assert with_base_scores(made)["forgetting"].isna().all()  # without a finished run, the base's score is unknown

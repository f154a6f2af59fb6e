"""The words on a report follow the tests: better, worse, or no difference shown."""

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.findings import as_table, findings
from gmt_analysis.tables import html_differences

from gmt.axis import Axis

NONE = float("nan")
RATIOS = (0.5, 0.9)


def table(*choices: tuple[str, str, float, float, float]) -> pd.DataFrame:
    """Ten seeds of each choice: arm, task, ratio, mean target and mean forgetting, with seeds that are alike in all."""
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 0.05, size=10)
    rows = [
        {
            "arm": arm,
            "task": task,
            "axis": ratio,
            "seed": seed,
            "state": "done",
            "target_after": target + seeds[seed] + rng.normal(0, 0.003),
            "forgetting": forgetting + rng.normal(0, 0.003),
        }
        for arm, task, ratio, target, forgetting in choices
        for seed in range(10)
    ]
    return pd.DataFrame(rows).astype({"axis": "Float64", "seed": "Int64"})


def test_better_worse_and_no_difference_shown() -> None:
    made = table(
        ("sft", "t", NONE, 0.7, 0.1),
        ("gmt", "t", 0.1, 0.7, 0.05),
        ("gmt", "t", 0.5, 0.75, 0.1),
        ("gmt", "t", 0.9, 0.6, 0.2),
        ("hft", "t", NONE, 0.65, 0.1),
    )
    target, forgetting = findings(made, axis=Axis(), baseline="sft", margin=0.02)
    assert target.sentences[0] == (
        "t: target score of gmt against sft: better at mask ratio 0.5; worse at 0.9; equivalent by itself at 0.1. "
        "Differences of 0.5 to 0.6 points are detected with a power of 80%."
    )
    assert target.sentences[1].startswith("t: target score of hft against sft: worse (-4.9 points [")
    assert target.sentences[2].startswith(
        "t: target score of gmt over 3 mask ratios: sensitive: worse than another mask ratio at 0.1, 0.9"
    )
    assert "With 10 seeds a difference of" in target.sentences[2]
    # less forgetting is better
    assert forgetting.sentences[0] == (
        "t: forgetting of gmt against sft: better at mask ratio 0.1; worse at 0.9; equivalent by itself at 0.5. "
        "Differences of 0.4 to 0.6 points are detected with a power of 80%."
    )
    shown = as_table(forgetting.to_baseline, forgetting.measure)
    assert shown["words"].tolist() == ["better", "equivalent by itself", "worse", "equivalent by itself"]
    assert shown["difference"].tolist() == pytest.approx([-5, 0, 10, 0], abs=0.5)  # percentage points


def test_arms_are_compared_with_one_another_at_the_same_value() -> None:
    made = table(
        ("sft", "t", NONE, 0.7, 0.1),
        *(
            (arm, "t", ratio, 0.7 - 0.1 * (arm == "rmt" and ratio == 0.9), 0.1)
            for arm in ("gmt", "rmt")
            for ratio in RATIOS
        ),
    )
    (target, _) = findings(made, axis=Axis(), baseline="sft", margin=0.02)
    (sentence,) = (s for s in target.sentences if "target score of gmt against rmt" in s)
    assert sentence.startswith(
        "t: target score of gmt against rmt: better at mask ratio 0.9; equivalent by itself at 0.5."
    )
    (title, shown) = html_differences(target, Axis())[-1]
    assert title == "Arm against arm at the same mask ratio"
    assert "<td>gmt</td><td>rmt</td><td>0.9</td><td>10</td><td>+10." in shown
    many = [("sft", "t", NONE, 0.7, 0.1), *((f"arm{i}", "t", 0.5, 0.7, 0.1) for i in range(17))]
    (target, _) = findings(table(*many), axis=Axis(), baseline="sft", margin=0.02)
    assert not any("against arm" in sentence for sentence in target.sentences)
    (title, shown) = html_differences(target, Axis())[-1]
    assert title.endswith(": the 120 of 136 rows with the smallest p")
    assert shown.count("<tr>") == 1 + 120


def test_a_difference_by_welchs_test_alone_has_its_own_words() -> None:
    """Seeds move the arms in opposite directions, so that the paired interval is wide."""
    rows = [
        {"arm": arm, "task": "t", "axis": axis, "seed": seed, "state": "done", "forgetting": 0.1}
        | {"target_after": 0.7 - worse + sign * move}
        for arm, axis, worse, sign in (("sft", NONE, 0, 1), ("gmt", 0.5, 0.055, -1))
        for seed, move in enumerate((-0.02, 0.02, -0.01, 0.01))
    ]
    made = pd.DataFrame(rows).astype({"axis": "Float64", "seed": "Int64"})
    (target, _) = findings(made, axis=Axis(), baseline="sft", margin=0.02)
    assert target.sentences[0].startswith(
        "t: target score of gmt against sft: different by Welch's test alone (-5.5 points"
    )
    (_, shown) = html_differences(target, Axis())[0]
    assert "<th>p by Welch&#x27;s unpaired test, corrected</th>" in shown


@pytest.mark.heavy
def test_several_tasks_are_spoken_of_together() -> None:
    made = table(*((arm, task, ratio, 0.6 + 0.1 * (arm == "gmt"), 0.1) for task in ("t", "u") for arm, ratio in ARMS))
    (target, _) = findings(made, axis=Axis(), baseline="sft", margin=0.02)
    over = next(sentence for sentence in target.sentences if sentence.startswith("In the mean over tasks"))
    assert over.startswith("In the mean over tasks, target score less that of sft: gmt 0.5 +10.")


@pytest.mark.heavy
def test_a_mean_over_tasks_that_contradict_each_other_is_left_out() -> None:
    gains = {("t", "gmt", 0.5): 0.2, ("u", "gmt", 0.5): -0.1, ("t", "gmt", 0.9): 0.05, ("u", "gmt", 0.9): 0.05}
    choices = [(arm, task, ratio) for task in ("t", "u") for arm, ratio in (*ARMS, ("gmt", 0.9))]
    made = table(*((arm, task, ratio, 0.6 + gains.get((task, arm, ratio), 0.0), 0.1) for arm, task, ratio in choices))
    target, forgetting = findings(made, axis=Axis(), baseline="sft", margin=0.02)
    over = next(sentence for sentence in target.sentences if sentence.startswith("In the mean over tasks"))
    assert over.startswith("In the mean over tasks, target score less that of sft: gmt 0.9 +5.")
    assert "; no mean of gmt 0.5, whose difference depends on the task. Differences of" in over
    assert as_table(target.in_common, target.measure)["words"].tolist() == ["depends on the task", "better"]
    over = next(sentence for sentence in forgetting.sentences if sentence.startswith("In the mean over tasks"))
    assert over.startswith("In the mean over tasks, forgetting less that of sft: no difference shown. Differences of")


ARMS = (("sft", NONE), ("gmt", 0.5))


def test_what_is_missing_is_not_spoken_of() -> None:
    only = table(("sft", "t", NONE, 0.7, 0.1))
    (sentence,) = findings(only, axis=Axis(), baseline="sft", margin=0.02)[0].sentences
    assert sentence == "All finished runs are of the baseline arm sft, so no comparison is shown."
    without = table(("gmt", "t", 0.5, 0.7, 0.1))
    (target, _) = findings(without, axis=Axis(), baseline="sft", margin=0.02)
    assert target.sentences == (
        "The baseline arm sft has no finished runs, so no comparison is shown.",
        "t: target score of gmt: one mask ratio: sensitivity is not tested.",
    )
    one_seed = table(("sft", "t", NONE, 0.7, 0.1), ("gmt", "t", 0.5, 0.9, 0.1))
    (target, _) = findings(one_seed[one_seed["seed"] == 0], axis=Axis(), baseline="sft", margin=0.02)
    assert target.sentences[0] == "t: target score of gmt against sft: not tested (fewer than 3 common seeds)."

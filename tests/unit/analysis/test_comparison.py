"""Comparisons against published and hand-computed ones."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.choices import Baseline
from gmt_analysis.equivalence import pairs_of_values, sensitivity
from gmt_analysis.findings import findings
from gmt_analysis.paired import between_arms, differences, over_tasks
from gmt_analysis.power import detectable_difference
from scipy import stats

from gmt.axis import Axis
from gmt.errors import UserError

# Student (1908), "The probable error of a mean": hours of sleep gained with two drugs by the same ten patients.
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
NONE = float("nan")


def table(*choices: tuple[str, float, Sequence[float]], task: str = "t") -> pd.DataFrame:
    """Runs that are done: arm, value of the axis, and a score for each seed."""
    rows = [
        {"arm": arm, "task": task, "axis": value, "seed": seed, "state": "done", "score": score}
        for arm, value, scores in choices
        for seed, score in enumerate(scores)
    ]
    types = {"axis": "Float64", "seed": "Int64", "score": "Float64"}
    return pd.DataFrame(rows).astype(types)


def test_students_sleep_data() -> None:
    (row,) = differences(table(("sft", NONE, DRUG_1), ("gmt", 0.5, DRUG_2)), "score", baseline="sft").to_dict("records")
    # R 4: t.test(drug2, drug1, paired = TRUE): t = 4.0621, df = 9, p-value = 0.002833, 0.7001142 to 2.4598858
    assert (row["arm"], row["axis"], row["n"]) == ("gmt", 0.5, 10)
    assert row["difference"] == pytest.approx(1.58)
    assert row["p"] == pytest.approx(0.002833, abs=5e-7)
    assert (row["low"], row["high"]) == (pytest.approx(0.7001142, abs=1e-6), pytest.approx(2.4598858, abs=1e-6))


def test_only_the_same_seed_is_a_pair() -> None:
    made = table(("sft", NONE, [1, 2, 3]), ("gmt", 0.5, [2, 3, 9]))
    made.loc[(made["arm"] == "sft") & (made["seed"] == 2), "state"] = "failed"
    (row,) = differences(made, "score", baseline="sft").to_dict("records")
    assert (row["difference"], row["n"]) == (1, 2)


def test_a_choice_without_a_pair_has_no_difference() -> None:
    made = table(("sft", NONE, [1]), ("gmt", 0.5, [2]))
    made["seed"] = [1, 2]
    (row,) = differences(made, "score", baseline="sft").to_dict("records")
    assert row["n"] == 0
    assert math.isnan(row["difference"])
    assert math.isnan(row["p_shared"])


def test_many_comparisons_share_the_level_and_no_interval_contradicts() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=8)
    made = table(("sft", NONE, base), *(("gmt", r, base + rng.normal(r, 1, size=8)) for r in (0.1, 0.8, 2.0)))
    rows = differences(made, "score", baseline="sft")
    assert rows["p_shared"].to_numpy() == pytest.approx(1 - (1 - rows["p"].to_numpy()) ** 3)  # Sidak (1967)
    excludes_0 = (rows["low"] > 0) | (rows["high"] < 0)
    assert ((rows["p_shared"] <= 0.05) == excludes_0).all()


def test_equivalence_to_the_baseline_and_equal_pairs() -> None:
    # differences -1, 0, -1, 0 within 1.5: p = 0.020245, as in test_equivalence_by_hand
    made = table(("sft", NONE, [5, 5, 5, 5]), ("gmt", 0.3, [4, 5, 4, 5]), ("gmt", 0.9, [5, 5, 5, 5]))
    rows = differences(made, "score", baseline="sft", margin=1.5).to_dict("records")
    assert rows[0]["p_equivalent"] == pytest.approx(0.020245, abs=2e-5)
    assert (rows[1]["difference"], rows[1]["low"], rows[1]["high"]) == (0, 0, 0)
    assert (rows[1]["p_shared"], rows[1]["p_equivalent"]) == (1, 0)


def test_welch_beside_pairs_that_move_in_opposite_ways() -> None:
    # docs/ratio_insensitivity.csv, long_words, sft and rmt 0.9: paired p = 0.006, Welch p = 0.0003 (science review)
    runs = pd.read_csv("docs/ratio_insensitivity.csv").rename(columns={"mask_ratio": "axis"})
    own = runs[
        (runs["task"] == "long_words") & ((runs["arm"] == "sft") | (runs["arm"] == "rmt") & (runs["axis"] == 0.9))
    ]
    (row,) = differences(own, "target_after", baseline="sft").to_dict("records")
    assert (row["p"], row["p_welch"]) == (pytest.approx(0.006, abs=5e-4), pytest.approx(0.0003, abs=5e-5))


def test_the_range_of_the_recorded_study() -> None:
    """Tukey's studentized range, which assumes equal deviations, would give 0.44 and 0.07 (science review)."""
    runs = pd.read_csv("docs/ratio_insensitivity.csv").rename(columns={"mask_ratio": "axis"})
    verdicts = sensitivity(runs[runs["arm"] == "gmt"], "target_after", axis=Axis(), margin=0.02)
    assert [verdict.p_range for verdict in verdicts] == pytest.approx([0.45, 0.14], abs=0.006)


def test_a_baseline_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="baseline must be an arm with finished runs, got 'lora'"):
        differences(table(("sft", NONE, [1, 2])), "score", baseline="lora")


def test_equivalence_by_hand() -> None:
    # differences 1, 0, 1, 0: mean 0.5, s = 0.57735, standard error 0.288675, 3 degrees of freedom.
    # Against 1.5: t = 1 / 0.288675 = 3.464102, P(T > t) = 0.020245. Against -1.5: t = 6.9282, P = 0.003082.
    made = table(("gmt", 0.3, [5, 5, 5, 5]), ("gmt", 0.9, [4, 5, 4, 5]))
    (row,) = pairs_of_values(made, "score", margin=1.5).to_dict("records")
    assert (row["axis"], row["against"], row["difference"]) == (0.3, 0.9, 0.5)
    assert row["p_equivalent"] == pytest.approx(0.020245, abs=2e-5)
    assert row["p"] == row["p_shared"] == pytest.approx(2 * stats.t.sf(0.5 / 0.288675, 3), abs=1e-5)


def test_the_best_may_be_the_least() -> None:
    made = table(("gmt", 0.3, [5, 5.5]), ("gmt", 0.9, [4, 5]))
    assert sensitivity(made, "score", margin=1, axis=Axis())[0].best == 0.3
    assert sensitivity(made, "score", margin=1, axis=Axis(), more_is_better=False)[0].best == 0.9


@pytest.mark.parametrize("margin", [0, -0.1, NONE])
def test_a_margin_is_above_nothing(margin: float) -> None:
    with pytest.raises(UserError, match="margin of equivalence must be above 0"):
        pairs_of_values(table(("gmt", 0.3, [1, 2])), "score", margin=margin)


def flat(spread: float, drop: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    ratios = (0.1, 0.5, 0.9)
    return table(*(("gmt", r, 0.7 - drop * (r == 0.9) + rng.normal(0, spread, size=10)) for r in ratios))


SENSITIVE = "sensitive: worse than another mask ratio at 0.3"
EQUIVALENT = "any two mask ratios are equivalent: the range of their means is shown to be below the margin"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (flat(0.002), EQUIVALENT),
        (flat(0.002, drop=0.1), "sensitive: worse than another mask ratio at 0.9"),
        (flat(0.1), "no two mask ratios are shown to differ by an amount that matters, nor all to be equivalent"),
        (table(("gmt", 0.3, [0.1, 0.2, 0.3]), ("gmt", 0.5, [0.105, 0.205, 0.305])), EQUIVALENT),
        (table(("gmt", 0.3, [0.1, 0.2, 0.3]), ("gmt", 0.5, [0.405, 0.505, 0.6])), SENSITIVE),
        (
            table(("gmt", 0.3, [1, 2, 3]), ("gmt", 0.5, [1, 2, 3])),
            EQUIVALENT,
        ),
        (table(("gmt", 0.5, [1, 2, 3])), "one mask ratio: sensitivity is not tested"),
        (table(("gmt", 0.3, [1]), ("gmt", 0.5, [2])), "1 seed: sensitivity is not tested"),
    ],
)
def test_words_follow_the_tests(made: pd.DataFrame, words: str) -> None:
    (verdict,) = sensitivity(made, "score", margin=0.02, axis=Axis())
    assert verdict.words == words


def test_runs_that_diverged_are_spoken_of() -> None:
    made = flat(0.002)
    made["state"] = ["diverged" if ratio == 0.9 else "done" for ratio in made["axis"]]
    made.loc[0, "state"] = "failed"
    (verdict,) = sensitivity(made, "score", margin=0.02, axis=Axis())
    assert (verdict.num_values, verdict.num_seeds) == (2, 9)
    left_out = "(runs left out: diverged at 0.9; not done at 0.1)"
    assert verdict.words == f"{EQUIVALENT} {left_out}"


def test_one_question_is_the_deviation_of_pairs_that_all_differ_by_the_same_amount() -> None:
    # by hand: error 0.005 / sqrt(3); against 0.02: t = 0.015 / 0.0028868 = 5.196, P(T > t) of 2 degrees = 0.0175
    made = table(("sft", NONE, [0.5, 0.6, 0.7]), ("gmt", 0.5, [0.505, 0.605, 0.705]))
    (row,) = differences(made, "score", baseline="sft", margin=0.02).to_dict("records")
    assert (row["difference"], row["assumed_deviation"]) == (pytest.approx(0.005), pytest.approx(0.005))
    assert row["p_equivalent"] == pytest.approx(0.0175, abs=1e-4)
    assert row["low"] < 0 < row["high"]
    known = made.rename(columns={"score": "target_after"}).assign(target_step=1 / 1000, forgetting=0.0)
    (row,) = differences(known, "target_after", baseline="sft").to_dict("records")
    assert row["assumed_deviation"] == 1 / 1000
    assert row["low"] > 0
    target, _ = findings(known, axis=Axis(), baseline="sft", margin=0.02)
    assert target.sentences[1] == (
        "In gmt 0.5 on t, the difference in target score to sft is the same on all seeds, and the effect of one test "
        "question is taken as its standard deviation."
    )


def test_a_baseline_at_several_values_is_compared_at_the_same_value() -> None:
    rates = {1e-3: ([1, 2, 3], [2, 3, 5]), 2e-3: ([5, 6, 7], [5, 7, 9])}
    made = table(*((arm, rate, scores) for rate, both in rates.items() for arm, scores in zip("sg", both, strict=True)))
    alone = table(("g", 3e-3, [1, 2, 3]))  # no run of the baseline has this value
    rows = differences(pd.concat([made, alone]), "score", baseline="s").to_dict("records")
    assert [(row["axis"], row["n"]) for row in rows] == [(1e-3, 3), (2e-3, 3), (3e-3, 0)]
    assert [row["difference"] for row in rows[:2]] == [pytest.approx(4 / 3), pytest.approx(1)]
    common = over_tasks(made, "score", baseline="s").set_index("choice")
    assert common["difference"].to_dict() == {"g 0.001": pytest.approx(4 / 3), "g 0.002": pytest.approx(1)}
    assert Baseline.from_table(made, "s").name(Axis("train.learning_rate")) == "s at the same learning rate"


def test_a_baseline_at_one_value_is_compared_with_every_value() -> None:
    made = table(("rmt", 0.3, [1, 2]), ("gmt", 0.3, [2, 3]), ("gmt", 0.9, [4, 5]))
    rows = differences(made, "score", baseline="rmt").to_dict("records")
    assert [(row["axis"], row["difference"], row["n"]) for row in rows] == [(0.3, 1, 2), (0.9, 3, 2)]
    assert Baseline.from_table(made, "rmt").name(Axis()) == "rmt 0.3"


def test_an_unfinished_run_of_the_baseline_counts_among_its_values() -> None:
    made = table(("s", 1e-3, [1, 2]), ("s", 2e-3, [1, 2]), ("g", 2e-3, [4, 5]))
    made.loc[(made["arm"] == "s") & (made["axis"] == 2e-3), "state"] = "to do"
    (row,) = differences(made, "score", baseline="s").to_dict("records")
    assert row["n"] == 0


def test_the_index_is_the_range_in_seed_deviations() -> None:
    # means 2, 4, 3; variances 1, 4, 1, whose mean is 2: the index is 2 / sqrt(2)
    made = table(("gmt", 0.1, [1, 2, 3]), ("gmt", 0.5, [2, 4, 6]), ("gmt", 0.9, [2, 3, 4]))
    (verdict,) = sensitivity(made, "score", margin=1, axis=Axis())
    assert (verdict.num_values, verdict.num_seeds, verdict.best) == (3, 3, 0.5)
    assert verdict.index == pytest.approx(2 / math.sqrt(2))


def test_what_a_study_could_have_seen() -> None:
    # R 4, pwr: pwr.t.test(n = 20, power = 0.8, type = "paired"): d = 0.6604413
    assert detectable_difference(1, 20) == pytest.approx(0.66044, abs=1e-4)
    assert detectable_difference(0.03, 20) == pytest.approx(0.03 * 0.66044, abs=1e-5)
    assert detectable_difference(1, 20, num_comparisons=8) > 0.66044
    assert math.isnan(detectable_difference(1, 2))


@pytest.mark.parametrize("num_pairs", [3, 4, 5, 10])
@pytest.mark.parametrize("num_comparisons", [1, 3, 36])
def test_what_is_detectable_is_found_in_four_studies_of_five(num_pairs: int, num_comparisons: int) -> None:
    size = detectable_difference(1, num_pairs, num_comparisons=num_comparisons)
    rng = np.random.default_rng(0)
    studies = rng.normal(size, 1, size=(200_000, num_pairs))
    found = stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05 / num_comparisons
    assert found.mean() == pytest.approx(0.8, abs=0.004)


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "num_values"), [(3, 3), (5, 9), (12, 4)])
def test_a_detectable_difference_of_two_values_is_found_in_four_studies_of_five(
    num_seeds: int, num_values: int
) -> None:
    rng = np.random.default_rng(0)

    def study(drop: float) -> pd.DataFrame:
        scores = rng.normal(size=(num_values, num_seeds))
        return table(*(("gmt", v, own - drop * (v == num_values - 1)) for v, own in enumerate(scores)))

    sizes = [sensitivity(study(0), "score", margin=0.1, axis=Axis())[0].detectable for _ in range(40)]
    found = [pairs_of_values(study(float(np.mean(sizes))), "score", margin=0.1) for _ in range(150)]
    rate = np.mean(
        [(own.query(f"axis == 0 and against == {num_values - 1}")["p_shared"] <= 0.05).all() for own in found]
    )
    assert rate == pytest.approx(0.8, abs=0.1)  # 3.3 points of standard error


def test_tasks_are_pooled_by_each_seeds_mean() -> None:
    rng = np.random.default_rng(3)
    tasks = []
    for task, level in (("t", 0.0), ("u", 5.0)):
        base = rng.normal(level, 2, size=6)
        tasks.append(table(("sft", NONE, base), ("gmt", 0.5, base + rng.normal(1, 0.5, size=6)), task=task))
    made = pd.concat(tasks, ignore_index=True)
    (row,) = over_tasks(made, "score", baseline="sft").to_dict("records")
    wide = made.astype({"axis": float}).pivot_table(index="seed", columns=["arm", "task"], values="score").astype(float)
    by_seed = (wide["gmt"] - wide["sft"]).mean(axis=1)
    assert (row["choice"], row["n"], row["difference"]) == ("gmt 0.5", 6, pytest.approx(by_seed.mean()))
    assert row["p"] == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert row["p_tasks"] == pytest.approx(stats.ttest_rel(*(wide["gmt"] - wide["sft"]).T.to_numpy()).pvalue)


def test_a_choice_that_varies_more_over_seeds_makes_no_other_look_uncertain() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, size=6)
    steady, wild = base + 0.5 + rng.normal(0, 0.01, size=6), base + 0.5 + rng.normal(0, 3, size=6)
    made = table(("sft", NONE, base), ("gmt", 0.5, steady), ("gmt", 0.9, wild))
    common = over_tasks(made, "score", baseline="sft").set_index("choice")
    pairs = differences(made, "score", baseline="sft").set_index("axis")
    for column in ("low", "high", "p", "detectable"):  # of one task and whole pairs it is the paired t test
        assert common.loc["gmt 0.5", column] == pytest.approx(pairs.loc[0.5, column], rel=0.02)
    assert common.loc["gmt 0.9", "p"] > 0.05 > common.loc["gmt 0.5", "p"]


def test_one_seed_is_not_tested_over_tasks() -> None:
    (row,) = over_tasks(table(("sft", NONE, [1]), ("gmt", 0.5, [2])), "score", baseline="sft").to_dict("records")
    assert (row["choice"], row["n"], row["difference"], math.isnan(row["p_shared"])) == ("gmt 0.5", 1, 1, True)
    alike = over_tasks(table(("sft", NONE, [1, 1, 1]), ("gmt", 0.5, [2, 2, 2])), "score", baseline="sft")
    assert alike["assumed_deviation"].tolist() == [1]
    assert over_tasks(table(("gmt", 0.5, [1, 2, 3])), "score", baseline="sft").empty


def recorded() -> pd.DataFrame:
    runs = pd.read_csv("docs/ratio_insensitivity.csv").rename(columns={"mask_ratio": "axis"})
    return runs.astype({"axis": "Float64"})


def test_p_of_welchs_test_is_corrected_for_all_rows() -> None:
    """All 56 rows share one correction. Then Welch's test shows a difference of rmt 0.9 on long_words; pairs do not."""
    rows = differences(recorded(), "target_after", baseline="sft")
    (row,) = rows[(rows["arm"] == "rmt") & (rows["task"] == "long_words") & (rows["axis"] == 0.9)].to_dict("records")
    assert len(rows) == 56
    assert row["p_shared"] == pytest.approx(0.28, abs=0.01)
    assert row["p_welch_shared"] == pytest.approx(0.016, abs=0.001)


@pytest.mark.parametrize(
    "baseline", [(0, 0, 0), (0.2, 0.4)]
)  # a constant baseline has no spread; two seeds are too few
def test_a_p_of_welchs_test_that_does_not_exist_has_no_correction(baseline: tuple[float, ...]) -> None:
    arms = (("gmt", 0.5, (0, 0.3, 0.02)[: len(baseline)]), ("gmt", 0.9, (0, 0.02, 0.01)[: len(baseline)]))
    made = table(("sft", NONE, baseline), *arms)
    for rows in (
        differences(made, "score", baseline="sft"),
        over_tasks(made, "score", baseline="sft"),
    ):
        assert len(rows) == 2
        assert rows["p_welch"].isna().all()
        assert rows["p_welch_shared"].isna().all()


def test_arms_are_compared_at_the_same_value() -> None:
    gmt, rmt = (3.0, 5.0, 8.0), (1.0, 4.0, 4.0)
    made = table(
        ("sft", NONE, (0, 0, 0)),
        ("hft", NONE, (0, 0, 0)),
        ("gmt", 0.5, (1, 2, 3)),
        ("gmt", 0.9, gmt),
        ("rmt", 0.9, rmt),
    )
    (row,) = between_arms(made, "score", baseline="sft").to_dict("records")
    assert (row["arm"], row["against"], row["task"], row["axis"]) == ("gmt", "rmt", "t", 0.9)
    assert (row["difference"], row["p"]) == (pytest.approx(7 / 3), pytest.approx(stats.ttest_rel(gmt, rmt).pvalue))
    assert row["p_welch"] == pytest.approx(stats.ttest_ind(gmt, rmt, equal_var=False).pvalue)
    at_rates = table(*((arm, rate, (1, 2, 3)) for arm in ("sft", "gmt", "rmt") for rate in (0.1, 0.2)))
    rows = between_arms(at_rates, "score", baseline="sft")  # the baseline has its own table
    assert rows[["arm", "against", "axis"]].to_numpy().tolist() == [["gmt", "rmt", 0.1], ["gmt", "rmt", 0.2]]
    assert between_arms(table(("sft", NONE, (1, 2, 3))), "score", baseline="sft").empty


def test_intervals_between_arms_are_simultaneous() -> None:
    rows = between_arms(recorded(), "target_after", baseline="sft")
    assert len(rows) == 3 * 9 * 2
    assert ((rows["low"] > 0) | (rows["high"] < 0)).equals(rows["p_shared"] <= 0.05)
    row = rows[(rows["arm"] == "gmt") & (rows["against"] == "rmt")].iloc[0]
    by_seed = recorded().query(f"task == '{row['task']}' and axis == {row['axis']}").pivot(index="seed", columns="arm")
    own = by_seed["target_after"]["gmt"] - by_seed["target_after"]["rmt"]
    half = stats.t.ppf((1 + 0.95 ** (1 / len(rows))) / 2, 4) * own.std() / 5**0.5  # Sidak's level of 54 rows
    assert (row["low"], row["high"]) == (pytest.approx(own.mean() - half), pytest.approx(own.mean() + half))

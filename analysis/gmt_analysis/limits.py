"""Sentences for the report on the limits of a study, and on the tuning of its settings."""

import pandas as pd

from gmt.listed import some
from gmt.studies.plan import Plan
from gmt_analysis.choices import FEW_SEEDS

_SMALL_MODEL = 1_000_000_000


def limits_of_tuning(plan: Plan) -> list[str]:
    """Return sentences on the limits that the tuning of a study's settings sets."""
    if not plan.tuned and len({planned.run.train.learning_rate for planned in plan.comparison}) > 1:
        return ["The learning rate was not tuned for each arm."]
    if not plan.tuned:
        return ["The learning rate is the same for every arm and was not tuned for each."]
    sentences = []
    if waiting := [tuned.label for tuned in plan.tuned if tuned.best is None]:
        sentences.append(f"These choices are still being tuned and not compared yet: {some(waiting)}.")
    if at_end := [tuned.label for tuned in plan.tuned if tuned.is_at_an_end]:
        sentences.append(
            f"The best {plan.tuned[0].setting} lies at an end of the interval that was searched, and a better one may "
            f"lie beyond it, for {len(at_end)} of {len(plan.tuned)} choices: {some(at_end)}."
        )
    setting, bound = plan.tuned[0].setting, plan.tuned[0].bound
    if unbounded := [tuned.label for tuned in plan.tuned if tuned.breaks_bound]:
        sentences.append(
            f"In tuning, runs forgot more than the bound of {100 * (bound or 0):g} points at every {setting}, so that "
            f"the value with the least forgetting is compared: {some(unbounded)}."
        )
    if any(tuned.best is not None for tuned in plan.tuned):
        sentences.append(
            f"Intervals and tests take each chosen {setting} as given; the section Tuning shows how certain it is."
        )
    return sentences


def limits(table: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """Return sentences on the limits that a study's numbers set."""
    sentences = []
    if (fewest := int(summary["n"].min())) < FEW_SEEDS:
        sentences.append(
            f"Some arm has {fewest} seed{'s' if fewest > 1 else ''}: the intervals are wide, and only large "
            "differences could be detected."
        )
    if (largest := int(table["num_parameters"].max())) < _SMALL_MODEL:
        sentences.append(
            f"The model has {largest:,} parameters. The claims of the GMT paper are about models of billions; nothing "
            "here confirms or refutes them at that size."
        )
    if summary["task"].nunique() == 1:
        sentences.append("There is one task: the results may differ on other tasks.")
    if seedless := list(table.loc[(table["state"] == "done") & table["seed"].isna(), "arm"].unique()):
        sentences.append(f"A merge over seeds has no seed to be paired on, so that no test compares {some(seedless)}.")
    if (table["target_density"] < 1).any():
        sentences.append(
            "A mask on the gradient is not a sparse update: momentum moves masked entries too. The moved fraction is "
            "the share of entries that moved, under any mask."
        )
    if table["dirty"].fillna(False).any():
        sentences.append("Some runs were made from a checkout with uncommitted changes.")
    return sentences

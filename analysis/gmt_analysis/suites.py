"""Means of single evaluations: learning and forgetting of a choice, suite by suite."""

import pandas as pd

from gmt_analysis.choices import CHOICE

SUITE = ["part", "suite", "metric"]
_LOSSES = ("nll", "kl", "perplexity")  # metrics that are no fractions of right answers


def is_loss(suite: str, metric: str) -> bool:
    """Return whether a metric of a suite is no fraction of right answers."""
    return (metric or suite).endswith(_LOSSES)


def means_by_suite(suites: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds, a row for each choice and metric of a suite: CHOICE, SUITE, before, after.

    Args:
        suites: from `gmt.tracking.suite_scores.read_suites`.
    """
    rows = suites.astype({"before": float, "after": float})
    return rows.groupby([*CHOICE, *SUITE], dropna=False, sort=False)[["before", "after"]].mean().reset_index()

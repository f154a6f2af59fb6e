"""Puts study sparse_family into docs: its runs as CSV with their learning rates and operations, and the page's table.

python -m recipes.sparse_table docs study=sparse_family    (after `gmt report study=sparse_family --operations`)
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from gmt_analysis.choices import CHOICE
from gmt_analysis.exports import as_csv
from gmt_analysis.results import Results
from gmt_analysis.statistics import mean_interval

from gmt.studies.opened import planned
from gmt.studies.plan import Plan

BEGIN, END = "<!-- the table, by recipes/sparse_table.py -->", "<!-- the end of the table -->"
_CHOICE = ["arm", "mask_ratio"]  # one row of the table; its columns name the tasks


def runs_of(plan: Plan) -> pd.DataFrame:
    """Return the finished runs of a study.

    Their columns are the report's, `learning_rate`, `is_rate_at_end`, which says that the rate lies at an end of the
    interval that was searched, and `gflops_a_step`.
    """
    results = Results(plan)
    rates = {p.run.id: p.run.train.learning_rate for p in plan.comparison}
    runs = results.table[results.table["state"] == "done"].merge(results.operations, on=CHOICE, how="left")
    ends = {tuned.best for tuned in plan.tuned if tuned.is_at_an_end}  # all choices search the same interval
    runs = runs.assign(learning_rate=runs["run_id"].map(rates)).rename(columns={"axis": "mask_ratio"})
    return runs.assign(is_rate_at_end=runs["learning_rate"].isin(ends))


def table(runs: pd.DataFrame) -> str:
    """Return the Markdown table of the runs: a row for each arm and mask ratio.

    Args:
        runs: from `runs_of`, or its CSV; with runs of sft.
    """
    tasks = sorted(runs["task"].unique())
    plain = runs[runs["arm"] == "sft"].groupby("task")["gflops_a_step"].first()
    runs = runs.assign(
        operations=runs["gflops_a_step"] / runs["task"].map(plain),
        trained=runs["num_trained"] / runs["num_parameters"],
        touched=runs["num_touched"] / runs["num_parameters"],
    )
    columns: dict[str, Callable[[pd.DataFrame], str]] = {"rate": _rate}
    for column, name in (("target_after", "target"), ("forgetting", "forgetting")):
        for task in tasks:
            columns[f"{name} {task}"] = lambda rows, c=column, t=task: _points(rows.loc[rows["task"] == t, c])
    columns |= {
        "trained at a step": lambda rows: _mean(rows["trained"], "{:.2%}"),
        "ever trained": lambda rows: _mean(rows["touched"], "{:.2%}"),
        "optimizer state without the mask's memory, KiB": lambda rows: _mean(
            rows["optimizer_state_bytes"] / 1024, "{:,.0f}"
        ),
        "operations / sft's": lambda rows: _mean(rows["operations"], "{:.2f}"),
        "training, s": lambda rows: _mean(rows["train_s"], "{:.1f}"),
    }
    lines = [" | ".join(("arm", "ratio", *columns)), " | ".join(["---", *["---:"] * (1 + len(columns))])]
    for (arm, ratio), rows in runs.groupby(_CHOICE, dropna=False, sort=False):
        cells = [str(arm), "" if pd.isna(ratio) else f"{ratio:g}", *(cell(rows) for cell in columns.values())]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def with_table(page: str, rows: str) -> str:
    """Return a page with the table between its marks."""
    return re.sub(rf"(?s)(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", lambda _: rows + "\n", page)


def _rate(rows: pd.DataFrame) -> str:
    """Return the learning rate of runs, with a mark if it lies at an end of the interval that was searched."""
    return f"{rows['learning_rate'].iloc[0]:.2g}" + (" (end)" if rows["is_rate_at_end"].iloc[0] else "")


def _points(scores: pd.Series) -> str:
    """Return the mean of scores in points, with the half width of its 95 % interval."""
    if scores.empty:
        return ""
    mean = mean_interval((100 * scores).tolist())
    return f"{mean.mean:.1f}" + ("" if mean.n == 1 else f" ± {mean.high - mean.mean:.1f}")


def _mean(values: pd.Series, form: str) -> str:
    known = values.dropna()
    return "" if known.empty else form.format(float(known.mean()))


def main() -> None:
    """Writes sparse_family.csv and the table of sparse_family.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("overrides", nargs="+", help="the study, as it was swept")
    args = parser.parse_args()
    plan, _ = planned(args.overrides, None)
    runs = runs_of(plan)
    (args.folder / "sparse_family.csv").write_text(as_csv(runs), encoding="utf-8")
    page = args.folder / "sparse_family.md"
    page.write_text(with_table(page.read_text(encoding="utf-8"), table(runs)), encoding="utf-8")


if __name__ == "__main__":
    main()

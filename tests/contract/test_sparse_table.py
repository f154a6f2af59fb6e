"""The table of docs/sparse_family.md is that of the recorded runs."""

from pathlib import Path

import pandas as pd
import pytest

from recipes.sparse_table import BEGIN, END, table, with_table

DOCS = Path(__file__).parents[2] / "docs"


def run(arm: str, task: str, seed: int, **changed: object) -> dict[str, object]:
    row = {"arm": arm, "task": task, "mask_ratio": None, "seed": seed, "learning_rate": 4e-3, "target_after": 0.5}
    row["is_rate_at_end"] = False
    row |= {"forgetting": 0.1, "num_parameters": 1000, "num_trained": 1000.0, "num_touched": 1000}
    return row | {"optimizer_state_bytes": 8192, "gflops_a_step": 2.0, "train_s": 3.0, **changed}


def test_a_row_holds_the_means_of_an_arm_at_a_ratio() -> None:
    masked = {"mask_ratio": 0.9, "num_trained": 100.0, "num_touched": 250, "optimizer_state_bytes": 1024}
    rows = [run("sft", "sums", 1), run("sft", "words", 1, gflops_a_step=4.0)]
    rows += [run("gmt", "sums", seed, **masked, target_after=score) for seed, score in ((1, 0.4), (2, 0.6))]
    rows += [run("gmt", "words", 1, **masked, gflops_a_step=2.0)]
    head, _, sft, gmt = table(pd.DataFrame(rows)).splitlines()
    assert head.startswith("| arm | ratio | rate | target sums | target words | forgetting sums |")
    assert sft == "| sft |  | 0.004 | 50.0 | 50.0 | 10.0 | 10.0 | 100.00% | 100.00% | 8 | 1.00 | 3.0 |"
    # half the width over two seeds: 12.706 * 10 points
    assert gmt == ("| gmt | 0.9 | 0.004 | 50.0 ± 127.1 | 50.0 | 10.0 ± 0.0 | 10.0 | 10.00% | 25.00% | 1 | 0.83 | 3.0 |")


def test_a_number_that_no_run_has_leaves_its_cell_empty() -> None:
    rows = pd.DataFrame([run("sft", "sums", 1), run("gmt", "sums", 1, num_touched=None, gflops_a_step=None)])
    assert table(rows).splitlines()[-1] == "| gmt |  | 0.004 | 50.0 | 10.0 | 100.00% |  | 8 |  | 3.0 |"


def test_a_rate_at_an_end_of_the_grid_is_marked() -> None:
    rows = [run("sft", "sums", 1), run("gmt", "sums", 1, learning_rate=8e-3, is_rate_at_end=True)]
    assert [line.split(" | ")[2] for line in table(pd.DataFrame(rows)).splitlines()[2:]] == ["0.004", "0.008 (end)"]


def test_only_the_part_between_the_marks_is_written_anew() -> None:
    assert with_table(f"above\n{BEGIN}\nold\n{END}\nbelow", r"| \1 |") == f"above\n{BEGIN}\n| \\1 |\n{END}\nbelow"


@pytest.mark.skipif(not (DOCS / "sparse_family.csv").exists(), reason="the study is not recorded yet")
def test_the_pages_table_is_that_of_its_csv() -> None:
    page = (DOCS / "sparse_family.md").read_text(encoding="utf-8")
    assert with_table(page, table(pd.read_csv(DOCS / "sparse_family.csv"))) == page

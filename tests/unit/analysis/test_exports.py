"""What stands in a study's names is text in CSV, LaTeX and HTML, and never a formula, a command or a tag."""

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from gmt_analysis.exports import as_csv, as_latex
from gmt_analysis.report import write_report
from hypothesis import given
from hypothesis import strategies as st

from tests.finished import finish, plan_of

HOSTILE = '=HYPERLINK("x")<script>$\\frac{\\input{x}&#%~^_$'


BEGINS = "=+-@\t\n\uff1d\uff0b\uff0d\uff20"


@given(st.text(st.sampled_from(f"{BEGINS}\r'a1.e ")))
def test_no_text_of_a_csv_begins_a_formula_and_each_can_be_read_back(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv(pd.DataFrame({"name": [text], "n": [-1]})), newline=""))
    assert row["n"] == "-1"
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    assert row["name"] in (lines, f"'{lines}")
    if row["name"].startswith(tuple(BEGINS)):
        float(row["name"])


@pytest.mark.parametrize("number", [-0.5, -1, float("nan"), 1e-30, True, "-0.5", "+3"])
def test_numbers_stay_numbers(number: object) -> None:
    rows = pd.DataFrame({"x": [number]})
    assert as_csv(rows) == rows.to_csv(index=False)


@given(st.text())
def test_latex_prints_every_text(text: str) -> None:
    escaped = as_latex(text)
    commands = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[&%$#_{}]|\{[\[\]*]\}", "", escaped)
    assert not set(commands) & set("\\&%$#_{}~^[]*\n\r")
    assert as_latex("a_b & 50 %") == r"a\_b \& 50 \%"


@pytest.mark.heavy
def test_a_report_of_hostile_names_holds_them_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmt_analysis.report.as_pdf", lambda figure: b"")  # half of a report's time
    arms = {name: {"method": name, "task.name": [HOSTILE], "model.name": ["=1+1"]} for name in ("sft", "gmt")}
    plan = plan_of(tmp_path, arms, [1])
    assert {planned.run.task.name for planned in plan.runs} == {HOSTILE}
    for planned in plan.runs:
        finish(planned, 0.7 + planned.run.seed / 100)
    files = {path.name: path.read_text() for path in write_report(plan).files if path.suffix != ".pdf"}
    rows = list(csv.DictReader(io.StringIO(files["runs.csv"])))
    assert {row["task"] for row in rows} == {f"'{HOSTILE}"}
    assert {row["model"] for row in rows} == {"'=1+1"}
    assert as_latex(HOSTILE) in files["means.tex"]
    assert r"\input" not in files["means.tex"]
    page = files["index.html"]
    assert page.count("<script") == page.count("<script>\n// A click on a head sorts") == 1
    assert "=HYPERLINK(&#34;x&#34;)&lt;script&gt;" in page or "=HYPERLINK(&quot;x&quot;)&lt;script&gt;" in page

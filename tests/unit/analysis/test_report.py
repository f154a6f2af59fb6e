"""A report is made of whatever runs there are, and says what is missing."""

import csv
import dataclasses
from pathlib import Path

import pytest
from gmt_analysis.rendering import as_image
from gmt_analysis.report import write_report
from gmt_analysis.results import Results

from gmt.errors import UserError
from gmt.studies.plan import Tuned
from tests.finished import finish, measured, plan_of

pytestmark = pytest.mark.heavy

ARMS = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}}


@pytest.fixture
def _words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is drawn, which is most of a report's time."""
    monkeypatch.setattr("gmt_analysis.report.as_svg", lambda figure: "<svg></svg>")
    monkeypatch.setattr("gmt_analysis.report.as_pdf", lambda figure: b"")


def test_all_that_a_paper_needs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2, 3], margin=0.05)
    for planned in plan.runs:
        is_best = planned.run.config["method"].get("mask_ratio") == 0.5
        finish(planned, 0.7 + 0.1 * is_best + planned.run.seed / 1000 * (1 + is_best))
    files = {path.name: path for path in write_report(plan).files}
    page = files["index.html"].read_text()
    differences = "better at mask ratio 0.5; equivalent by itself at 0.9. Differences of 0.3 points"
    assert f"long_words: target score of gmt against sft: {differences}" in page
    assert "within 5 points" in page
    assert page.count("<svg") == 4  # frontier, scores, costs
    assert len(page) < 150_000
    assert page.index("Highest mean target score: gmt 0.5") < page.index("<svg")  # the answer comes first
    rows = list(csv.DictReader(files["differences.csv"].open()))
    assert [row["measure"] for row in rows] == ["target_after"] * 2 + ["forgetting"] * 2
    assert float(rows[0]["difference"]) == pytest.approx(0.102)
    means = list(csv.DictReader(files["means.csv"].open()))
    assert means[0]["arm"] == "sft"
    assert float(means[0]["target_after_boot_low"]) == pytest.approx(0.701, abs=1e-6)
    assert r"sft & long_words &  & 3 & $70.2$ ($70.1$ to $70.3$)" in files["means.tex"].read_text().replace(r"\_", "_")
    assert files["target_long_words.pdf"].read_bytes().startswith(b"%PDF")
    before = {name: path.read_bytes() for name, path in files.items() if name != "index.html"}
    assert {p.name: p.read_bytes() for p in write_report(plan).files if p.name != "index.html"} == before


@pytest.mark.slow
def test_a_page_of_forty_arms_is_small_enough_to_mail(tmp_path: Path) -> None:
    """For comparison: the page of the recorded study, 54 choices on two tasks, has 1.7 MB."""
    arms = {f"arm_{i}": {"method": "rmt", "method.mask_ratio": i / 50} for i in range(1, 40)}
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}, **arms}, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5 + planned.run.config["method"].get("mask_ratio", 0) / 3 + planned.run.seed / 1000)
    page = write_report(plan).files[0]
    assert page.stat().st_size < 400_000


def test_a_study_without_a_finished_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study made has no finished run to report on"):
        write_report(plan_of(tmp_path, ARMS, [1]))


@pytest.mark.usefixtures("_words_only")
def test_one_seed_and_one_ratio_are_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}, [1])
    for planned in plan.runs:
        finish(planned, 0.7, dirty=True)
    with pytest.raises(
        UserError,
        match="study made needs runs from a committed checkout, and all 2 finished runs are from one with uncommitted",
    ):
        write_report(plan)
    page = write_report(plan, dirty=True).files[0].read_text()
    assert "one mask ratio: sensitivity is not tested" in page
    assert "Some arm has 1 seed" in page
    assert "uncommitted changes" in page


@pytest.mark.usefixtures("_words_only")
def test_the_report_counts_unfinished_runs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2])
    for planned in plan.runs[1:]:
        finish(planned, 0.7)
    finish(plan.runs[1], 0.7, dirty=True)
    page = write_report(plan).files[0].read_text()
    sentence = (
        "2 of 6 runs are left out of all numbers here: 1 made in a checkout with uncommitted changes, which --dirty "
        "counts (sft seed=2); 1 to do (sft seed=1)."
    )
    answer, limits = page.index(sentence), page.rindex(sentence)
    assert answer < page.index("<nav>") < page.index('id="limits"') < limits


def test_a_ratio_that_was_not_begun_is_not_spoken_for(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"gmt": {"method": "gmt", "method.mask_ratio": [0.3, 0.5, 0.9]}}, [1, 2, 3])
    for planned in plan.runs:
        if planned.run.config["method"]["mask_ratio"] != 0.9:
            finish(planned, 0.5 + planned.run.seed / 1000)
    found, _ = Results(plan).findings
    assert "(runs left out: not done at 0.9)" in found.sentences[-1]


@pytest.mark.usefixtures("_words_only")
def test_operations_are_shown_once_they_were_counted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5 + planned.run.seed / 100)
        if planned.run.seed == 1:
            measured(planned, {"step": 2e9, "training": 2e11})
    made = write_report(plan)
    assert "pareto_operations_long_words" in made.figures
    assert "Operations, 10⁹/step" in made.files[0].read_text()
    (rows,) = (list(csv.DictReader(path.open())) for path in made.files if path.name == "operations.csv")
    assert [(row["arm"], row["gflops_a_step"], row["tflops_a_run"]) for row in rows] == [
        ("sft", "2.0", "0.2"),
        ("gmt", "2.0", "0.2"),
        ("gmt", "2.0", "0.2"),
    ]


@pytest.mark.usefixtures("_words_only")
def test_a_study_without_its_baseline_is_reported(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS | {"hft": {"method": "hft"}}, [1, 2], baseline="hft")
    for planned in plan.runs:
        if planned.point.arm != "hft":
            finish(planned, 0.7)
    page = write_report(plan).files[0].read_text()
    assert "against hft" not in page
    assert "The baseline arm hft has no finished runs, so no comparison is shown." in page
    assert "target score of gmt over 2 mask ratios: 2 seeds: sensitivity is not tested." in page


def test_models_are_compared_each_by_itself(tmp_path: Path) -> None:
    arms = {arm: {**settings, "model.name": ["one", "two"]} for arm, settings in ARMS.items()}
    plan = plan_of(tmp_path, arms, [1, 2, 3])
    for planned in plan.runs:
        is_two = planned.run.model.name == "two"
        finish(planned, 0.5 + 0.2 * is_two + planned.run.seed / 100)
    results = Results(plan)
    assert set(results.summary["n"]) == {3}
    assert set(results.table["task"]) == {"long_words, one", "long_words, two"}
    (found, _) = results.findings
    assert set(found.to_baseline["n"]) == {3}


@pytest.mark.usefixtures("_words_only")
def test_figures_have_names_that_files_and_mlflow_take(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"gmt": {"method": "gmt", "model.name": ["one/a", "two"]}}, [1, 2])
    for planned in plan.runs:
        finish(planned, 0.5)
        planned.record.append_metrics(1, {"mask/energy_kept": 0.9, "mask/overlap": 0.9, "mask/moved_fraction": 0.1})
        planned.record.append_metrics(2, {"mask/energy_kept": 0.9, "mask/overlap": 0.9, "mask/moved_fraction": 0.1})
        planned.record.finish()
    figures = set(write_report(plan).figures)
    assert {"facts_long_words_one_a", "facts_long_words_two"} <= figures


def test_a_study_of_which_nothing_is_compared_yet_says_how_far_its_tuning_is(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1])
    tuned = Tuned(
        label="sft", setting="x", low=1, high=2, num_done=3, num_runs=8, best=None, bound=None, trials={}, scores={}
    )
    tuning = [dataclasses.replace(p, point=dataclasses.replace(p.point, stage="tuning")) for p in plan.runs]
    with pytest.raises(UserError, match="has no finished run to report on: 3 of 8 runs that tune x are done"):
        Results(dataclasses.replace(plan, runs=tuning, tuned=[tuned]))


@pytest.mark.usefixtures("_words_only")
def test_tasks_together_are_a_table(tmp_path: Path) -> None:
    arms = {arm: {**settings, "task": ["long_words", "three_sums"]} for arm, settings in ARMS.items()}
    plan = plan_of(tmp_path, arms, [1, 2, 3])
    for planned in plan.runs:
        is_three_sums = planned.run.task.name == "three_sums"
        finish(planned, 0.5 + planned.run.seed / 100 * (1 + is_three_sums))
    files = {path.name: path for path in write_report(plan).files}
    page = files["index.html"].read_text()
    assert page.count("<summary>Differences to sft over all tasks</summary>") == 2
    assert "gmt 0.5" in page
    assert page.count("<th>p, same difference on all tasks</th>") == 2
    common = list(csv.DictReader(files["over_tasks.csv"].open()))
    assert {(row["choice"], row["n"]) for row in common} == {("gmt 0.5", "3"), ("gmt 0.9", "3")}


@pytest.mark.usefixtures("_words_only")
def test_a_diverged_run_counts_with_the_bases_score_and_the_difference_without_it_is_shown(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2, 3])
    for planned in plan.runs[1:]:
        finish(planned, 0.5)
    assert "Diverged runs" not in write_report(plan).files[0].read_text()
    plan.runs[0].record.create(plan.runs[0].run.science, plan.runs[0].run.config)
    plan.runs[0].record.note_failure("diverged", "diverged", "loss is NaN")
    files = {path.name: path.read_text() for path in write_report(plan).files if path.suffix in (".html", ".csv")}
    assert "Diverged runs (1) count with the base's score in differences" in files["index.html"]
    assert (
        "On long_words, runs that diverged count with the base&#39;s score on the frontier: sft." in files["index.html"]
    )
    assert "<th>Without pairs in which a run diverged</th>" in files["index.html"]
    first = next(csv.DictReader(files["differences.csv"].splitlines()))
    assert (first["n"], first["num_diverged"], float(first["without_diverged"])) == ("3", "1", 0)
    assert float(first["difference"]) == pytest.approx((0.5 - 0.1) / 3)  # the base's target score is 0.1


@pytest.mark.usefixtures("_words_only")
def test_what_else_varies_makes_arms(tmp_path: Path) -> None:
    arms = {"sft": {"method": "sft", "train.learning_rate": [1e-3, 2e-3]}}
    plan = plan_of(tmp_path, arms, [1, 2])
    for planned in plan.runs:
        finish(planned, 0.5 + planned.run.train.learning_rate)
    means = list(csv.DictReader(next(p for p in write_report(plan).files if p.name == "means.csv").open()))
    assert [row["arm"] for row in means] == ["sft learning_rate=0.001", "sft learning_rate=0.002"]
    assert [row["n"] for row in means] == ["2", "2"]


@pytest.mark.usefixtures("_words_only")
def test_a_report_runs_along_any_setting(tmp_path: Path) -> None:
    """The word for it is the setting's, and what else varies makes arms, as it does beside the mask ratio."""
    arms = {"sft": {"method": "sft"}, "lora": {"method": "lora", "method.rank": [2, 4], "method.targets": ["a", "b"]}}
    plan = plan_of(tmp_path, arms, [1, 2, 3], axis="method.rank")
    for planned in plan.runs:
        rank = planned.run.config["method"].get("rank", 0)
        finish(planned, 0.5 + 0.05 * rank + 0.001 * planned.run.seed * (1 + rank))
    files = {path.name: path for path in write_report(plan).files}
    page = files["index.html"].read_text()
    assert "<th>Rank</th>" in page
    assert "long_words: target score of lora targets=a against sft: better at rank 2, 4" in page
    assert "target score of lora targets=b over 2 ranks: sensitive: worse than another rank at 2" in page
    assert "if every pair, uncorrected, is within 2 points" in page
    assert "mask ratio" not in page
    means = list(csv.DictReader(files["means.csv"].open()))
    assert [(row["arm"], row["rank"]) for row in means] == [
        ("sft", ""),
        *((f"lora targets={targets}", rank) for rank in ("2.0", "4.0") for targets in "ab"),
    ]
    assert r"Arm & Task & Rank & n" in files["means.tex"].read_text()


@pytest.mark.usefixtures("_words_only")
def test_an_axis_that_all_arms_have_compares_the_baseline_at_the_same_value(tmp_path: Path) -> None:
    rates = {"train.learning_rate": [1e-4, 1e-3, 1e-2]}
    plan = plan_of(
        tmp_path, {arm: {"method": arm, **rates} for arm in ("sft", "rmt")}, [1, 2], axis="train.learning_rate"
    )
    for planned in plan.runs:
        better = 0.1 if planned.run.method.name == "rmt" else 0
        finish(planned, 0.5 + 10 * planned.run.train.learning_rate + better)
    files = {path.name: path for path in write_report(plan).files}
    page = files["index.html"].read_text()
    assert (
        "target score of rmt against sft at the same learning rate: not tested (fewer than 3 common seeds) at "
        "learning rate 0.0001, 0.001" in page
    )
    assert "Differences to sft at the same learning rate on each task" in page
    assert "The learning rate is the same for every arm" not in page
    rows = list(csv.DictReader(files["differences.csv"].open()))
    assert [float(row["difference"]) for row in rows if row["measure"] == "target_after"] == pytest.approx([0.1] * 3)


def test_a_study_whose_runs_all_have_scores_that_are_no_numbers_is_not_called_unfinished(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1, 2])
    for planned in plan.runs:
        finish(planned, float("nan"))
    with pytest.raises(
        UserError, match="study made has no run to report on: 2 finished runs have a score or a loss that"
    ):
        write_report(plan)


@pytest.mark.usefixtures("_words_only")
def test_a_score_that_is_no_number_is_left_out_and_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2, 3])
    for planned in plan.runs:
        is_broken = planned.run.seed == 1 and planned.run.config["method"].get("mask_ratio") == 0.5
        finish(planned, float("nan") if is_broken else 0.5 + planned.run.seed / 100)
    page = write_report(plan).files[0].read_text()
    assert "1 of 9 runs are left out of all numbers here: 1 without a score (gmt mask_ratio=0.5 seed=1)." in page
    assert "nan" not in page[page.index("</style>") : page.index("<svg")]


def test_what_mlflow_is_given(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ARMS, [1, 2, 3])
    for planned in plan.runs:
        finish(planned, 0.5 + planned.run.seed / 100)
    made = write_report(plan)
    assert len(made.results.done) == 9
    assert set(made.figures) == {f"{name}_long_words" for name in ("frontier", "target", "forgetting", "step_time")}
    assert min(as_image(figure).size[0] for figure in made.figures.values()) > 500
    (target, _) = made.results.findings
    assert target.sentences[0].startswith("long_words: target score of gmt against sft")

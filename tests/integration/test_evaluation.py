"""What was asked before a kill is not asked again, and the base is asked once for a whole study."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gmt.composition import Composer, hydra_on
from gmt.errors import Interrupted, RunFailed, UserError
from gmt.runs import prepare
from gmt.runs.build import Run, build
from gmt.runs.evaluate import evaluate, folder_of_base
from gmt.runs.execute import execute
from gmt.tasks.protocol import EvaluationInputs, Reader, Score
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.control import Control
from tests.conftest import CONF

ASKED: list[str] = []
BREAKS: set[str] = set()
STOPS_AT: set[int] = set()  # questions of which number are asked when the run is to end


class Counted:
    """A benchmark that tells when it is asked, and breaks on request."""

    def __init__(self, name: str, is_score: bool = True):
        self.name, self.is_score = name, is_score

    def __repr__(self) -> str:
        return f"Counted({self.name})"

    def fingerprint(self) -> str:
        return self.name

    def check(self, reader: Reader) -> None:
        assert reader.context == 128

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        ASKED.append(self.name)
        time.sleep(0.2)
        inputs.on_progress(1, 2)
        if self.name in BREAKS:
            raise RuntimeError("broken")
        return Score(metric="points", value=0.5 if self.is_score else 40.0, answers=[{"prompt": "p", "answer": "a"}])


@pytest.fixture(autouse=True)
def _forget() -> None:
    ASKED.clear()
    BREAKS.clear()
    STOPS_AT.clear()
    prepare._prepare.cache_clear()


def run_of(root: Path, seed: int = 1) -> Run:
    with hydra_on(str(CONF)):
        run = build(Composer().compose_plain(["task=tiny", f"seed={seed}", f"record.root={root}", "method=sft"]))
    entries = {"target": {"one": Counted("one"), "two": Counted("two")}, "source": {"text": Counted("text", False)}}
    for part, more in entries.items():
        object.__setattr__(run.task, part, {**getattr(run.task, part), **more})
    return run


def test_the_base_is_evaluated_once_for_a_study(tmp_path: Path) -> None:
    for seed in (1, 2):
        prepare._prepare.cache_clear()  # as in another process
        execute(run_of(tmp_path, seed))
    assert ASKED == ["one", "two", "text"] * 3  # the base, and what two runs made of it


def test_of_two_that_want_the_same_one_asks(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, seed) for seed in (1, 2)]
    prepared = [prepare.prepare(run) for run in runs]
    for run in runs:
        run.record.create(run.science, run.config)
    model = runs[0].model.load_model()
    kept = folder_of_base(runs[0], {}, "cpu")
    assert kept == folder_of_base(runs[1], {}, "cpu")
    with ThreadPoolExecutor(2) as threads:  # a lock of files holds between threads as between processes
        done = threads.map(lambda i: evaluate(runs[i], prepared[i], model, kept, Control()).scores, (0, 1))
    first, second = done
    assert first == second
    assert sorted(ASKED) == ["one", "text", "two"]


def test_after_a_failure_only_missing_answers_are_evaluated(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    execute_base = ["one", "two", "text"]
    BREAKS.add("two")
    with pytest.raises(RunFailed, match="broken"):
        execute(run)
    BREAKS.clear()
    record = execute(run)
    assert ["one", "two", *execute_base[1:], *execute_base] == ASKED
    assert not (record.folder / "evaluation").exists()
    assert record.evaluation_progress() is None


def test_ctrl_c_does_not_wait_for_an_evaluation(tmp_path: Path) -> None:
    whole = execute(run_of(tmp_path / "whole")).read("result.json")
    ASKED.clear()
    prepare._prepare.cache_clear()
    run, control = run_of(tmp_path), Control(should_stop=lambda: len(ASKED) in STOPS_AT)
    STOPS_AT.update({2, 6})
    for _ in STOPS_AT:
        with pytest.raises(Interrupted, match="during an evaluation"):
            execute(run, control)
    assert last_whole_checkpoint(run.record.checkpoints) is not None
    result = execute(run, control).read("result.json")
    assert ASKED == ["one", "two", "two", "text"] * 2
    assert result["weights_sha256"] == whole["weights_sha256"]
    assert result["after"] == whole["after"]
    assert result["training"]["density"] == whole["training"]["density"] == 1
    assert result["training"]["forward_backward_s"] > 0
    assert result["seconds"] > 0.2 * len(ASKED)  # of all three attempts: none asked more than four


def test_a_perplexity_is_recorded_and_enters_no_mean(tmp_path: Path) -> None:
    record = execute(run_of(tmp_path))
    after = record.read("result.json")["after"]
    assert record.read("result.json")["metrics"]["before"]["eval/source/text_points"] == 40.0
    assert set(after["source"]) == {"words", "mean"}
    assert after["source"]["mean"] == after["source"]["words"]
    assert after["target"]["mean"] == pytest.approx((after["target"]["words"] + 0.5 + 0.5) / 3)
    last = record.metrics()[0][-1]
    assert last["eval/source/text_points"] == 40.0
    assert last["eval/source_mean"] == after["source"]["mean"]


class Returns(Counted):
    """A benchmark that returns a value, or calls it."""

    def __init__(self, value: Any):
        super().__init__("returns")
        self._value = value

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        return self._value() if callable(self._value) else self._value


def score(value: Any, answers: Any = ()) -> Score:
    return Score(metric="points", value=value, answers=answers)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (score(float("nan")), r"a value in \[0, 1\], since is_score is True, got nan as points"),
        (score(7.0), r"a value in \[0, 1\], since is_score is True, got 7.0 as points"),
        (score(-0.5), r"a value in \[0, 1\], since is_score is True, got -0.5 as points"),
        (score("0.5"), "a Score whose value is a number, got '0.5'"),
        (score(0.5, [{"answer": object()}]), "rows of plain values as answers: Object of type object"),
        (score(0.5, None), "a row of answers for each question, got None"),
        (Score(metric=None, value=0.5, answers=[]), "a Score whose metric is a name, got None"),  # type: ignore[arg-type]
        (None, "a gmt.tasks.protocol.Score, got None"),
    ],
)
def test_no_run_is_done_with_a_benchmarks_wrong_score(tmp_path: Path, value: Any, sentence: str) -> None:
    run = run_of(tmp_path)
    run.task.target["one"] = Returns(value)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=rf"^task\.target\.one: evaluate\(\) must return {sentence}"):
        execute(run)
    assert run.record.state() == "failed"


def test_a_plug_in_that_exits_fails_its_run(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.task.target["one"] = Returns(lambda: sys.exit(0))  # type: ignore[attr-defined]
    with pytest.raises(RunFailed, match="SystemExit: 0"):
        execute(run)
    assert run.record.state() == "failed"


class Changes(Counted):
    """A benchmark that changes the model."""

    def __init__(self, change: Callable[[Any], object]):
        super().__init__("changes")
        self._change = change

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        with torch.no_grad():
            self._change(inputs.model)
        return score(0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: next(model.parameters()).zero_(),
        lambda model: model.requires_grad_(False),
        lambda model: model.half(),
        lambda model: model.load_state_dict(model.state_dict()),
    ],
)
def test_no_run_is_done_whose_benchmark_changes_the_model(tmp_path: Path, change: Callable[[Any], object]) -> None:
    run = run_of(tmp_path)
    run.task.target["one"] = Changes(change)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^task\.target\.one: evaluate\(\) must not change the model's parameters"):
        execute(run)


def test_a_benchmark_that_leaves_the_model_in_train_mode_changes_no_later_score(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    modes: list[bool] = []
    run.task.target["one"] = Changes(lambda model: model.train())  # type: ignore[attr-defined]
    run.task.target["two"] = Changes(lambda model: modes.append(model.training))  # type: ignore[attr-defined]
    execute(run)
    assert set(modes) == {False}


def test_a_plug_in_that_exits_before_its_run_has_begun_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    benchmark = Returns(score(0.5))
    monkeypatch.setattr(benchmark, "check", lambda reader: sys.exit(0))
    run.task.target["one"] = benchmark  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^task\.target\.one: .*Returns can't check its data: SystemExit: 0"):
        execute(run)

"""The stage that chooses examples: the same choice on any machine and after a kill, measured once and recorded."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gmt.commands.plan import planned
from gmt.commands.show import show
from gmt.composition import Composer, hydra_on
from gmt.config_dir import config_dir
from gmt.errors import Interrupted, UserError
from gmt.records.digests import change_in
from gmt.records.record import RunRecord
from gmt.runs import measure
from gmt.runs.build import Run, build
from gmt.runs.choose import FILE, as_chosen, choose
from gmt.runs.execute import execute
from gmt.runs.prepare import prepare
from gmt.runs.run_context import RunContext
from gmt.runs.workers import execute_on_worker
from gmt.selections import completion
from gmt.selections.protocol import Choice, MeasuresExamples
from gmt.selections.random_fraction import RandomFraction
from gmt.studies.estimate import _kind
from gmt.training.control import Control
from tests.conftest import CONF
from tests.integration.test_paradigms import preferences
from tests.processes import in_ranks

SELECTIONS = sorted(path.stem for path in (config_dir() / "selection").glob("*.yaml"))
NUM_PROMPTS, NUM_ANSWERS = 12, 3
NUM_EXAMPLES = NUM_PROMPTS * NUM_ANSWERS


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """A task with several answers to each prompt, of different lengths."""
    answers = [[("ab" * n)[: n + k] for k in range(NUM_ANSWERS)] for n in range(2, NUM_PROMPTS + 2)]
    lines = [{"prompt": f"{n} times", "completion": a} for n, same in enumerate(answers, start=2) for a in same]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [
        *("task=dataset", "task.name=rows", f"task.data.path={file}"),
        *("task.target.held_out.data.path=shipped:facts.jsonl", "task.target.held_out.columns.answer=answer"),
        *("train.micro_batch_size=4", "train.accumulation_steps=1", "train.max_length=40"),
    ]


def tiny(*overrides: str) -> list[str]:
    return ["task=tiny", "task.train.words.num_examples=20", "train.micro_batch_size=4", *overrides]


def run_of(root: Path, *overrides: str) -> Run:
    with hydra_on(str(CONF)):
        return build(Composer().compose_plain(["method=sft", "tracking=none", f"record.root={root}", *overrides]))


def context_of(run: Run, control: Control | None = None) -> RunContext:
    run.record.create(run.science, run.config)
    how: Any = {"device": "cpu", "sources": {}, "control": control or Control()}
    return RunContext(run=run, record=run.record, prepared=prepare(run), **how)


def chosen(run: Run) -> list[dict[str, Any]]:
    choose(context_of(run))
    return run.record.read_lines(FILE)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the examples of which the loss under the base is computed."""
    counted: list[int] = []
    loss_of = completion.loss_of

    def count(*arguments: Any) -> Any:
        counted.append(1)
        return loss_of(*arguments)

    monkeypatch.setattr(completion, "loss_of", count)
    return counted


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_choice_is_the_same_wherever_it_is_made(name: str, tmp_path: Path, rows: list[str]) -> None:
    run = run_of(tmp_path / "one", *rows, f"selection={name}", "train.micro_batch_size=2")
    here = context_of(run)
    trained_on = choose(here).prepared
    found = run.record.read_lines(FILE)
    assert len(found) == NUM_EXAMPLES
    indices = [row["index"] for row in found if row["chosen"]]
    assert 0 < len(indices) == trained_on.num_examples < NUM_EXAMPLES
    assert trained_on.num_not_selected == NUM_EXAMPLES - len(indices)
    assert trained_on.examples.to_list() == [here.prepared.examples[i] for i in indices]  # in the order of the task
    other_batches = ("train.micro_batch_size=4", "train.num_epochs=3", "train.packing=true")
    assert chosen(run_of(tmp_path / "two", *rows, f"selection={name}", *other_batches)) == found


def test_grape_trains_on_one_answer_to_each_prompt(tmp_path: Path, rows: list[str]) -> None:
    found = chosen(run_of(tmp_path, *rows, "selection=grape"))
    for first in range(0, NUM_EXAMPLES, NUM_ANSWERS):
        same = found[first : first + NUM_ANSWERS]
        (best,) = [row["score"] for row in same if row["chosen"]]
        assert best == min(row["score"] for row in same)


def test_runs_that_need_the_same_measures_share_them(tmp_path: Path, rows: list[str], measured: list[int]) -> None:
    wanted = [
        ["selection=base_loss"],
        ["selection=base_loss", "seed=2", "train.learning_rate=1e-5"],
        ["selection=base_loss", "selection.fraction=0.25", "selection.keep=middle"],
        ["selection=grape"],
    ]
    found = [chosen(run_of(tmp_path, *rows, *overrides)) for overrides in wanted]
    assert len(measured) == NUM_EXAMPLES
    assert found[0] == found[1] != found[2]
    chosen(run_of(tmp_path, *rows, "selection=base_loss", "task.data.seed=7"))
    assert len(measured) == 2 * NUM_EXAMPLES


def test_a_killed_choice_measures_only_the_remaining_examples(
    tmp_path: Path, rows: list[str], measured: list[int]
) -> None:
    undisturbed = chosen(run_of(tmp_path / "whole", *rows, "selection=base_loss"))
    measured.clear()
    run = run_of(tmp_path / "killed", *rows, "selection=base_loss")
    with pytest.raises(Interrupted):
        choose(context_of(run, Control(should_stop=lambda: len(measured) == 10)))
    assert run.record.evaluation_progress() is None
    assert not (run.record.folder / FILE).exists()
    (kept,) = tmp_path.glob("killed/selections/*/measures.jsonl")
    with kept.open("a") as file:
        file.write("[10, [0.")  # a line that a kill cut short
    assert chosen(run) == undisturbed
    assert len(measured) == NUM_EXAMPLES
    assert not kept.exists()


def test_changed_measures_are_measured_again(tmp_path: Path, rows: list[str], measured: list[int]) -> None:
    undisturbed = chosen(run_of(tmp_path, *rows, "selection=base_loss"))
    (kept,) = tmp_path.glob("selections/*/measures.json")
    kept.write_text(kept.read_text().replace("[[", "[[1", 1))
    assert chosen(run_of(tmp_path, *rows, "selection=base_loss", "seed=2")) == undisturbed
    assert len(measured) == 2 * NUM_EXAMPLES


def test_a_resumed_run_keeps_its_choice(tmp_path: Path, rows: list[str]) -> None:
    run = run_of(tmp_path, *rows, "selection=random")
    context = context_of(run)
    run.record.write_lines(FILE, ({"index": i, "chosen": i < 8, "score": None} for i in range(NUM_EXAMPLES)))
    assert choose(context).prepared.chosen == list(range(8))
    run.record.write_lines(FILE, ({"index": i, "chosen": True, "score": None} for i in range(8)))
    with pytest.raises(UserError, match=r"must have a row for each of the 36 examples, in their order, got 8 rows"):
        as_chosen(run, prepare(run))


@pytest.mark.parametrize("how", [[], ["train.packing=true"]])
def test_choosing_all_examples_equals_a_run_without_a_selection(how: list[str], tmp_path: Path) -> None:
    everything = choose(context_of(run_of(tmp_path, *tiny(*how), "selection=random", "selection.fraction=1"))).prepared
    plain = prepare(run_of(tmp_path, *tiny(*how)))
    assert everything.examples.to_list() == plain.examples.to_list()
    assert (everything.num_examples, everything.num_not_selected) == (plain.num_examples, 0)


def test_preferences_are_chosen_before_they_are_cut_into_steps(tmp_path: Path) -> None:
    wanted = [*preferences(tmp_path), "train.accumulation_steps=1", "selection=base_loss"]
    run = run_of(tmp_path, *wanted)
    trained_on = choose(context_of(run)).prepared
    assert (trained_on.num_examples, trained_on.num_left_over, trained_on.num_not_selected) == (8, 2, 10)
    losses = [row["score"] for row in run.record.read_lines(FILE)]
    worst_chosen = max(row["score"] for row in run.record.read_lines(FILE) if row["chosen"])
    assert worst_chosen == sorted(losses)[9]
    with pytest.raises(UserError, match=r"one without gradients for task preferences, .* got donod: DPO's loss is the"):
        run_of(tmp_path, *wanted, "selection=donod")


def test_a_run_records_the_examples_that_it_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, *tiny("train.accumulation_steps=1", "selection=base_loss", "selection.fraction=0.6"))
    record = execute(run)
    result = record.result()
    assert (result.num_train_examples, result.num_not_selected_examples) == (12, 8)
    assert result.training.num_steps == 3
    show(run.id, [f"record.root={tmp_path}"], None, brief=True)
    assert "12 of 20 examples by base_loss, with scores from " in capsys.readouterr().out
    digests = record.status()["digests"]
    (record.folder / FILE).write_text((record.folder / FILE).read_text().replace("false", "true", 1))
    assert change_in(record.folder, digests) == f"{FILE} does not match its digest in status.json"


def on_a_worker(root: Path, overrides: list[str]) -> None:
    execute_on_worker(run_of(root, *overrides, "resources.workers=2"), root / "stop")


def losses_of(record: RunRecord) -> list[float]:
    return [row["train/loss"] for row in record.metrics()[0] if "train/loss" in row]


def test_two_workers_train_on_the_choice_of_one(tmp_path: Path) -> None:
    wanted = tiny("train.accumulation_steps=2", "selection=base_loss", "record.log_every=1")
    one = execute(run_of(tmp_path / "one", *wanted))
    assert in_ranks(on_a_worker, 2, tmp_path / "two", wanted) == [0, 0]
    two = run_of(tmp_path / "two", *wanted).record
    assert two.state() == "done"
    assert two.read_lines(FILE) == one.read_lines(FILE)
    found, expected = losses_of(two), losses_of(one)
    assert found == pytest.approx(expected, rel=1e-4)  # gradients of a step are summed in another order
    assert two.result().training.num_tokens == one.result().training.num_tokens


@pytest.mark.parametrize("arm", [("method=green",), ("method=s2ft", "method.score=gradient"), ("method=eva",)])
def test_a_selection_that_leaves_too_few_rows_for_a_method_is_refused(arm: tuple[str, ...], tmp_path: Path) -> None:
    run = run_of(tmp_path, *tiny("selection=random", "selection.fraction=0.5"), *arm, "method.num_examples=16")
    with pytest.raises(UserError, match=r"^method\.num_examples must be at most 10, the rows of .*, got 16$"):
        execute(run)


def test_the_id_changes_with_a_selection_and_not_without(tmp_path: Path) -> None:
    with hydra_on(str(CONF)):
        config = Composer().compose_plain(["task=tiny"])
    assert "selection" not in config
    assert build(config).id == build({**config, "selection": None}).id
    runs = [run_of(tmp_path, *tiny(), *more) for more in ([], ["selection=random"], ["selection=longest"])]
    assert len({run.id for run in runs}) == len({_kind(run.science, run.config["resources"]) for run in runs}) == 3


def test_a_study_runs_along_the_fraction(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "study"
    folder.mkdir(parents=True)
    arms = (
        "arms:\n  part: { method: sft, selection: random, selection.fraction: [0.25, 0.5] }\n  all: { method: sft }\n"
    )
    (folder / "parts.yaml").write_text(f"name: parts\nquestion: How many?\nshared: {{ seed: [1, 2] }}\n{arms}")
    plan, _ = planned(["study=parts", f"record.root={tmp_path}"], str(folder.parent))
    selections = [each.run.config.get("selection") for each in plan.runs]
    assert [s and s["fraction"] for s in selections] == [0.25, 0.25, 0.5, 0.5, None, None]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["selection=random", "selection.fraction=0.1"],
            r"choose at least 4 examples, as many as an optimizer step takes .*, got 2 of 20",
        ),
        (["selection=grape"], r"the 20 examples has a prompt of its own"),
    ],
)
def test_too_few_examples_are_refused_before_anything_is_measured(
    more: Sequence[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(run_of(tmp_path, *tiny("train.accumulation_steps=1"), *more))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrong(RandomFraction):
    """A faulty selection from outside."""

    choice: Callable[[int], Choice]

    def choose(self, examples: Any, measures: Any, *, seed: int) -> Choice:
        return self.choice(len(examples))


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (lambda n: Choice(indices=[0, 0, 1, 2], scores=None), "choose each example at most once, by an index below 20"),
        (lambda n: Choice(indices=[0, 1, 2, n], scores=None), "choose each example at most once, by an index below 20"),
        (lambda n: Choice(indices=range(8), scores=[1.0]), "a finite score for each of the 20 examples"),
        (lambda n: Choice(indices=range(8), scores=[float("nan")] * n), "a finite score for each of the 20 examples"),
        (lambda n: Choice(indices=[1, 2], scores=None), "choose at least 4 examples"),
        (lambda n: 1 / 0, r"selection: class .*Wrong can't choose: ZeroDivisionError"),
    ],
)
def test_a_wrong_choice_of_a_plug_in_is_refused(choice: Any, sentence: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, *tiny("train.accumulation_steps=1"), "selection=random")
    run = dataclasses.replace(run, selection=Wrong(name="wrong", fraction=0.5, choice=choice))
    with pytest.raises(UserError, match=sentence):
        choose(context_of(run))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalfAMeasure(RandomFraction):
    """A selection whose author forgot to name the measure."""

    needs_gradients = False

    def measurer(self, model: Any) -> Any:
        return lambda example: (0.0,)


def test_a_measurer_without_the_name_of_its_measure_is_refused(tmp_path: Path) -> None:
    target = f"{HalfAMeasure.__module__}.{HalfAMeasure.__qualname__}"
    with pytest.raises(UserError, match=r"must have needs_gradients and measured_by beside measurer .* HalfAMeasure"):
        run_of(tmp_path, *tiny(), "selection=random", f"selection._target_={target}")


def test_a_measure_of_nan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, *tiny(), "selection=base_loss")
    assert isinstance(run.selection, MeasuresExamples)
    measure.check_measuring(run)
    monkeypatch.setattr(type(run.selection), "measurer", lambda self, model: lambda example: (float("nan"),))
    with pytest.raises(UserError, match=r"selection must measure finite numbers, got nan for example 0 under the base"):
        choose(context_of(run))

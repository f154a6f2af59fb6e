"""A merge that learns from the training examples of its parent."""

from pathlib import Path

import pytest
import torch

from gmt.errors import Interrupted
from gmt.runs import merge_gradients
from gmt.runs.build import Run
from gmt.runs.execute import execute
from gmt.training.control import Control
from tests.merging import base_of, done, noise, run_with, tiny_model, weights_of

LEARN = (
    "merge=graft_learned",
    "merge.num_steps=12",
    "merge.batch_size=40",
    "merge.keep=0.5",
    "merge.learning_rate=3e8",
)


def learnt(root: Path, *overrides: str) -> Run:
    run = run_with(root, *LEARN, *overrides)
    assert execute(run).state() == "done"
    return run


def facts_of(run: Run) -> dict[str, float]:
    rows, _ = run.record.metrics()
    return {key: value for row in rows for key, value in row.items() if key.startswith("merge/")}


def test_a_learnt_graft_lowers_the_loss_and_holds_values_of_base_and_parent(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "llama")
    parent = done(run_with(tmp_path / "one", *model), noise(1))
    run = learnt(tmp_path / "one", *model)
    losses = facts_of(run)
    assert losses["merge/last_loss"] < losses["merge/first_loss"] - 0.01
    base, tuned = base_of(parent), weights_of(parent)
    for name, weight in weights_of(run).items():
        assert bool(((weight == base[name]) | (weight == tuned[name])).all())
    done(run_with(tmp_path / "other", *model), noise(1))
    steps = iter(range(10**6))
    again = run_with(tmp_path / "other", *LEARN, *model)
    with pytest.raises(Interrupted):
        execute(again, Control(should_stop=lambda: next(steps) > 150))
    assert execute(again).state() == "done"
    assert all(torch.equal(weights_of(again)[name], weight) for name, weight in weights_of(run).items())
    assert facts_of(again) == losses


def test_it_reads_the_rows_that_its_parents_selection_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = [*tiny_model(tmp_path / "llama"), "selection=random", "selection.fraction=0.5"]
    parent = run_with(tmp_path, *model, "record.keep_weights=true")
    execute(parent)
    seen: list[int] = []
    only_chosen = merge_gradients.only_chosen
    monkeypatch.setattr(
        merge_gradients,
        "only_chosen",
        lambda prepared, indices, train: (seen.extend(indices), only_chosen(prepared, indices, train))[1],
    )
    run = learnt(tmp_path, *model)
    rows = parent.record.read_lines("selection.jsonl")
    assert run.parent_ids == (parent.id,)
    assert seen == [row["index"] for row in rows if row["chosen"]]
    assert 0 < len(seen) < len(rows)

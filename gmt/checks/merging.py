"""Laws of a merge, tried with short runs as its parents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gmt.checks.short_runs import RunEnd, ShortRuns
from gmt.checks.training import finite, same, saves, trains
from gmt.checks.verdict import Verdict
from gmt.errors import UserError
from gmt.merges.protocol import ChoosesParents, Merge, learns
from gmt.methods.protocol import ReshapesModel
from gmt.runs.build import Run, plug_in

MERGE = "merge"
PARENTS = "the short runs that it merges finish"
MERGES = "it computes weights"
KILLED = "killed with SIGKILL while it merges, it computes the same weights anew, bit for bit"
ORDER = "computed in another order, its tensors are the same, bit for bit"
_ALONE = "a tensor must depend on the weights, the settings and `seed` alone"


def with_parents(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with placeholder run ids as parents, if it names no parents and the merge needs several."""
    try:
        least, _ = plug_in(MERGE, config[MERGE], Merge).num_parents
    except UserError:
        return dict(config)  # the laws of planning report it
    if config["parents"] is not None or least == 1:
        return dict(config)
    return {**config, "parents": [f"{number:016x}" for number in range(least)]}


def laws_of_merge(runs: ShortRuns) -> Iterator[Verdict]:
    """Yield a verdict on each law; only the first ones, if a parent or the merge itself fails."""
    run = runs.built()
    assert run.merge is not None
    number = run.merge.num_parents[0]
    rate, keep_weights = run.train.learning_rate, "merged" if isinstance(run.method, ReshapesModel) else True
    for_parents = {MERGE: None, "parents": None, "record.keep_weights": keep_weights}
    parents = [
        runs.execute({**for_parents, "train.learning_rate": rate / 2**i}, leave_record=True) for i in range(number)
    ]
    for parent in parents:
        if (verdict := trains(parent, PARENTS)).state == "broken":
            yield verdict
            return
    yield Verdict(law=PARENTS, state="holds", detail=f"{number} by {run.method.name}")
    with_parent_ids = {"parents": None if number == 1 else [parent.record.id for parent in parents]}
    merged = runs.execute(with_parent_ids)
    yield (verdict := _merges(merged))
    if verdict.state == "broken":
        return
    yield finite(merged)
    yield saves(merged)
    killed = runs.execute(with_parent_ids, kill_after=0)
    yield repeats(merged, killed, runs.execute(with_parent_ids) if killed.state == "killed" else killed)
    yield _in_another_order(merged, runs.built(with_parent_ids))


def _merges(merged: RunEnd) -> Verdict:
    if merged.state != "done":
        return Verdict(law=MERGES, state="broken", detail=f"the run is {merged.state}: {merged.sentence}")
    moved = merged.record.result().moved_fraction
    return Verdict(law=MERGES, state="holds", detail=f"{moved:.1%} of the entries differ from the base")


def repeats(merged: RunEnd, killed: RunEnd, again: RunEnd) -> Verdict:
    """Return the verdict on whether a merge that is killed and begun again computes the same weights."""
    if killed.state == "done":
        return Verdict(law=KILLED, state="broken", detail="the run ended before it was killed")
    if again.state != "done":
        return Verdict(law=KILLED, state="broken", detail=f"the run is {again.state}: {again.sentence}")
    if same(merged, again):
        return Verdict(law=KILLED, state="holds")
    return Verdict(law=KILLED, state="broken", detail=f"the weights differ: {_ALONE}")


def _in_another_order(merged: RunEnd, run: Run) -> Verdict:
    """Compute the tensors from the last to the first, in this process, and compare them with the saved ones."""
    from gmt.runs.merge_stage import seed_of, weights_for
    from gmt.training.saved_tensors import SavedTensors

    assert run.merge is not None
    if isinstance(run.merge, ChoosesParents):
        return Verdict(law=ORDER, state="skipped", detail="its parents are known only while it merges")
    if learns(run.merge):
        return Verdict(law=ORDER, state="skipped", detail="its formula is known only while it merges")
    saved = SavedTensors(merged.record.folder / "weights", dict(run.model.base().named_parameters()))
    weights = weights_for(run, {name: saved[name].dtype for name in saved})
    formula = run.merge.formula(weights, seed=seed_of(run))
    for name in reversed(weights.names):
        if not formula(name).to(saved[name].dtype).equal(saved[name]):
            detail = f"{name} differs when the tensors are computed from the last to the first: {_ALONE}"
            return Verdict(law=ORDER, state="broken", detail=detail)
    return Verdict(law=ORDER, state="holds")

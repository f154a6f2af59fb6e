"""A merge's parents, and whether their weights are available. Imports no torch, so that planning costs little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gmt.errors import UserError
from gmt.methods.protocol import ReshapesModel
from gmt.records.record import RunRecord
from gmt.runs.build import Run


def parents_of(run: Run) -> list[RunRecord]:
    """Return the records of a merge's parents; empty for a run that trains."""
    return [RunRecord(run.record_settings.runs, id_) for id_ in run.parent_ids]


def check_parents(run: Run) -> None:
    """Raise UserError with a sentence for each parent that is not done or lacks the weights that the merge needs."""
    if faults := [fault for record in parents_of(run) if (fault := fault_of(run, record, {})) is not None]:
        raise UserError(*faults)


def fault_of(run: Run, record: RunRecord, planned: Mapping[str, Run]) -> str | None:
    """Return a sentence that says why a parent can't be merged; None if it can.

    Args:
        run: the merge.
        record: the parent's record.
        planned: runs that will be done before the merge, by id; a parent among them may be unfinished.
    """
    assert run.merge is not None
    need, state = f"merge={run.merge.name} needs the weights of run {record.id}", record.state()
    parent = planned.get(record.id)
    if state == "changed":
        return f"{need}: {record.change()}"
    if state != "done" and parent is None:
        why = f"which is not done ({state})" if record.exists() else "which has no record"
        return f"{need}, {why}; {_remedy(run)}"
    pending = parent if state != "done" else None
    fault = _fault_of_files(record) if pending is None else _fault_of_plan(pending)
    if fault is not None:
        return f"{need}, {fault}"
    science = record.read("config.json")["science"] if pending is None else pending.science
    if _model_of(science) != _model_of(run.science) and not run.merge.takes_other_base:
        form = " with other settings" if science["model"]["name"] == run.model.name else ""
        return (
            f"merge={run.merge.name} needs parents that were trained from its own model {run.model.name}, and run "
            f"{record.id} was trained from {science['model']['name']}{form}"
        )
    return None


def _model_of(science: Mapping[str, Any]) -> tuple[object, object]:
    return science["model"], science["fingerprints"]["model"]


def _remedy(run: Run) -> str:
    return "parents must name finished runs" if run.parents else "execute it first, by the same command without merge"


def _fault_of_files(record: RunRecord) -> str | None:
    if any((record.folder / "weights").glob("*.safetensors")):
        return None
    if (record.folder / "adapter").is_dir():
        return f"which saved only its adapter: delete {record.folder} and run it anew with record.keep_weights=merged"
    return f"which saved no weights: delete {record.folder} and run it anew with record.keep_weights=true"


def _fault_of_plan(parent: Run) -> str | None:
    if not parent.record_settings.keep_weights:
        return "which must save them: record.keep_weights must be true, got false"
    if parent.merge is None and isinstance(parent.method, ReshapesModel) and not parent.record_settings.keeps_whole:
        return f"whose method {parent.method.name} saves only the adapter: record.keep_weights must be merged"
    return None


def not_done(run: Run) -> Sequence[RunRecord]:
    """Return the records of a merge's unfinished parents."""
    return [record for record in parents_of(run) if record.state() != "done"]


def failure_of(run: Run, record: RunRecord) -> str:
    """Return the error message of a merge with a parent that ended without being done."""
    assert run.merge is not None
    error = record.status().get("error")
    return (
        f"merge={run.merge.name} needs the weights of run {record.id}, which is {record.state()}"
        + (f": {error}" if error else "")
        + f" ({record.folder})"
    )

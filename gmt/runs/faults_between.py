"""Finds settings of a run that are valid in their own config groups but do not fit each other."""

from numbers import Real

from gmt.methods.probing import ProbesExamples
from gmt.methods.protocol import (
    AddsLoss,
    FitsOptimizers,
    FitsSharding,
    FitsWorkers,
    Method,
    ReadsExamples,
    ReshapesModel,
    TrainsInPhases,
    UsesContext,
    maker_of_optimizer,
)
from gmt.runs.settings import RecordSettings, ResourceSettings
from gmt.selections.protocol import MeasuresExamples, Selection
from gmt.tasks.protocol import Task
from gmt.training.optimizers import SHARDED, facts_of
from gmt.training.settings import TrainSettings

_NOT_SHARDED = (
    (ReshapesModel, "changes the model's parts or freezes some"),
    (AddsLoss, "adds a term to the loss"),
    (TrainsInPhases, "trains in phases"),
)


def faults_between(task: Task, method: Method, train: TrainSettings, resources: ResourceSettings) -> list[str]:
    """Return a sentence for each setting of method, task, training and resources that does not fit another."""
    faults = []
    if resources.sharding != "none":
        faults += [
            f"resources.sharding must be none for method {method.name}, which {action}, got {resources.sharding}"
            for protocol, action in _NOT_SHARDED
            if isinstance(method, protocol)
        ]
        if isinstance(method, FitsSharding):
            faults += [
                f"resources.sharding must be none for {fault}, got {resources.sharding}"
                for fault in method.faults_when_sharded()
            ]
    if isinstance(method, ReadsExamples | ProbesExamples) and method.num_examples and train.paradigm != "sft":
        faults.append(
            f"train.paradigm must be sft for method {method.name}, which reads examples with one completion each, "
            f"got {train.paradigm}"
        )
    if isinstance(method, UsesContext) and train.packing:
        faults.append(f"train.packing must be false for method {method.name}, whose parts precede each text, got true")
    faults += _faults_of_optimizer(method, train, resources)
    if task.is_preference != (train.paradigm == "dpo"):
        answers = "two answers to choose between" if task.is_preference else "one completion"
        paradigm = "dpo" if task.is_preference else "sft"
        faults.append(
            f"train.paradigm must be {paradigm} for task {task.name}, whose examples have {answers} each, got "
            f"{train.paradigm}"
        )
    if train.accumulation_steps % resources.workers:  # a step must be the same on any number of workers
        faults.append(
            f"resources.workers must divide train.accumulation_steps={train.accumulation_steps}, since the workers "
            f"share the mini-batches of a step, got {resources.workers}"
        )
    return faults


def faults_of_search(search: object, method: Method, record: RecordSettings) -> list[str]:
    """Return a sentence for each setting that a search can't work with."""
    faults = [] if record.evaluate_every else ["search needs record.evaluate_every to be at least 1, got 0"]
    if isinstance(method, TrainsInPhases):
        faults.append(
            f"search must be null for method {method.name}, which trains in phases, since scores before the last phase "
            f"do not predict the final score, got {type(search).__name__}"
        )
    return faults


def faults_of_selection(selection: Selection | None, task: Task) -> list[str]:
    """Return a sentence if a selection lacks a member of its protocol, or can't choose among a task's examples."""
    if selection is None:
        return []
    if isinstance(selection, MeasuresExamples) and selection.needs_gradients and task.is_preference:
        return [
            f"selection must be one without gradients for task {task.name}, whose examples are preferences, got "
            f"{selection.name}: DPO's loss is the same for all of them before the training"
        ]
    if hasattr(selection, "measurer") and not isinstance(selection, MeasuresExamples):
        return [
            "selection must have needs_gradients and measured_by beside measurer (see gmt.selections.protocol."
            f"MeasuresExamples), got class {type(selection).__qualname__}"
        ]
    return []


def _faults_of_optimizer(method: Method, train: TrainSettings, resources: ResourceSettings) -> list[str]:
    faults = []
    makes_its_own = maker_of_optimizer(method) is not None
    if makes_its_own and train.optimizer != "adamw":
        faults.append(
            f"train.optimizer must be adamw for method {method.name}, which makes an optimizer of its own, "
            f"got {train.optimizer}"
        )
    if resources.sharding != "none" and (makes_its_own or train.optimizer not in SHARDED):
        optimizer = (
            f"method {method.name} with its own optimizer" if makes_its_own else f"train.optimizer={train.optimizer}"
        )
        faults.append(f"resources.sharding must be none for {optimizer}, got {resources.sharding}")
    density = method.target_density
    if density is not None and (not isinstance(density, Real) or not 0 <= float(density) <= 1):
        faults.append(f"method {method.name}: target_density must be None or a number in [0, 1], got {density!r:.80}")
    if resources.workers > 1 and isinstance(method, FitsWorkers):
        faults += method.faults_with_workers(resources.workers)
    if isinstance(method, FitsOptimizers):
        faults += method.faults_with(facts_of(train.optimizer, train.momentum))
    return faults

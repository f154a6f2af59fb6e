"""Evaluates a model on a run's task, and stores each evaluation's score as soon as it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from gmt.errors import UserError, within
from gmt.evaluation.suites import ask
from gmt.records.identity import run_id
from gmt.removal import remove
from gmt.runs.build import Run
from gmt.runs.code_versions import code_of
from gmt.runs.device import kind_of_device
from gmt.runs.environment import environment
from gmt.runs.evaluated import Evaluated
from gmt.runs.evaluation_process import locked, progress_reporter
from gmt.runs.prepare import Prepared
from gmt.runs.run_context import to_device
from gmt.runs.sources import Sources, hub_versions
from gmt.runs.stored_scores import read_score, write_score
from gmt.tasks.protocol import Benchmark, EvaluationInputs, Reader, Score, Suite
from gmt.tasks.returned_values import checked_score
from gmt.training.control import Control

PARTS = ("target", "source")


def evaluate(
    run: Run, prepared: Prepared, model: PreTrainedModel, folder: Path, control: Control, parts: Sequence[str] = PARTS
) -> Evaluated:
    """Return the scores and answers of a model; scores that an earlier attempt has stored are not computed again.

    Args:
        run: the run whose task is evaluated.
        prepared: the run's suites and reader.
        model: the model, on any device; it is left in eval mode.
        folder: stores the scores; must be used for exactly these weights.
        control: receives progress, and may demand a stop.
        parts: the parts of the task to evaluate.

    Raises:
        Interrupted: `control` demanded a stop; the scores so far are stored.
        UserError: another user could have written the stored scores, or a benchmark changed the model or returned a
            wrong score.
    """
    run.record_settings.refuse_foreign(folder)  # others could forge scores, and pickles, which lm-eval stores there
    model.eval()  # type: ignore[no-untyped-call]
    scores: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    answers: list[dict[str, Any]] = []
    for part in parts:
        values = {}
        reader = prepared.reader.for_part(prepared.suites[part])
        for name, suite in prepared.suites[part].items():
            with within(f"task.{part}.{name}"):
                score = _stored_or_new_score(suite, name, folder / part, run, reader, model, control)
            if isinstance(suite, Suite) or suite.is_score:
                values[name] = score.value
            metrics[f"eval/{part}/{name}_{score.metric}"] = score.value
            answers += [{"part": part, "suite": name, **row} for row in score.answers]
        scores[part] = values | {"mean": fmean(values.values())}
        metrics[f"eval/{part}_mean"] = scores[part]["mean"]
    return Evaluated(scores=scores, metrics=metrics, answers=answers)


def _load_base(run: Run, model: PreTrainedModel) -> PreTrainedModel:
    """Return a run's model as it was before any training, on the device of `model`."""
    base = to_device(run.model.load_model(), model.device.type)
    base.eval()  # type: ignore[no-untyped-call]
    return base


def folder_of_base(run: Run, sources: Sources, device: str) -> Path:
    """Return the folder of the base's scores and answers, which runs share if they would compute the same ones.

    Runs share the folder if they have the same model and task, files of the hub, code, versions of libraries and kind
    of device. The code is that of this package, uncommitted changes included, and that of plug-in models and tasks.

    Args:
        run: the run whose base is evaluated.
        sources: the run's files, see gmt.runs.sources.
        device: `cpu` or `cuda`.
    """
    science = {key: run.science[key] for key in ("model", "task", "fingerprints")}
    code = code_of({key: run.config[key] for key in ("model", "task")}) | hub_versions(sources)
    ran_on = {"versions": environment()["versions"], "device": kind_of_device(device, run.resources.cpus)}
    return run.record_settings.runs.parent / "base" / run_id(science | {"code": code} | ran_on)


def _stored_or_new_score(
    suite: Suite | Benchmark,
    name: str,
    folder: Path,
    run: Run,
    reader: Reader,
    model: PreTrainedModel,
    control: Control,
) -> Score:
    """Return the stored score, or evaluate; if several processes need it at once, one evaluates and the others wait."""
    file = folder / f"{name}.json"
    scratch = folder / "scratch" / name
    scratch.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{name}.lock", control):
        if file.exists() and (score := read_score(file)) is not None:
            return score
        run.record.note_evaluation(name)
        inputs = EvaluationInputs(
            **vars(reader),
            model=model,
            cpus=run.resources.cpus,
            scratch=scratch,
            on_progress=progress_reporter(name, run.record, control),
            base=lambda: _load_base(run, model),
        )
        try:
            score = ask(suite, inputs) if isinstance(suite, Suite) else _benchmark_score(suite, inputs)
        finally:
            run.record.note_evaluation(None)
        write_score(file, score)
        with suppress(OSError):
            remove(scratch, folder)
    return score


def _benchmark_score(benchmark: Benchmark, inputs: EvaluationInputs) -> Score:
    before = _versions(inputs.model)
    score = checked_score(benchmark.evaluate(inputs), is_score=benchmark.is_score)
    if _versions(inputs.model) != before:
        raise UserError("evaluate() must not change the model's parameters, and has changed some")
    inputs.model.eval()  # type: ignore[no-untyped-call]
    return score


def _versions(model: PreTrainedModel) -> list[tuple[Any, ...]]:
    """Return values that differ once a parameter was replaced, frozen or written in place, except through `data`."""
    return [(id(p), p.dtype, p.requires_grad, p._version) for p in model.parameters()]

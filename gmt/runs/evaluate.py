"""Asks a model all that a run's task evaluates, and keeps each part as soon as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from gmt.errors import within
from gmt.evaluation.suites import ask
from gmt.records.identity import run_id
from gmt.removal import remove
from gmt.runs.asking import alone, progress_reporter
from gmt.runs.build import Run
from gmt.runs.code_versions import code_of
from gmt.runs.device import kind_of_device
from gmt.runs.environment import environment
from gmt.runs.evaluated import Evaluated
from gmt.runs.kept_scores import read_score, write_score
from gmt.runs.prepare import Prepared
from gmt.runs.run_context import to_device
from gmt.runs.sources import Sources, of_hub
from gmt.tasks.protocol import Asked, Benchmark, Reader, Score, Suite
from gmt.training.control import Control

PARTS = ("target", "source")


def evaluate(
    run: Run, prepared: Prepared, model: PreTrainedModel, kept: Path, control: Control, parts: Sequence[str] = PARTS
) -> Evaluated:
    """Asks a model; what was asked already, by a run that was killed since, is read.

    Args:
        run: what is asked for.
        prepared: of the run.
        model: on any device; is left in eval mode.
        kept: a folder for what these very weights came to.
        control: told of progress, and asked whether to go on.
        parts: of the task.

    Raises:
        Interrupted: `control` asked for it; what was answered is kept.
        UserError: another user could have written what was asked already.
    """
    run.record_settings.refuse_foreign(kept)  # forged scores, and lm-eval keeps pickles
    model.eval()  # type: ignore[no-untyped-call]
    scores: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    answers: list[dict[str, Any]] = []
    for part in parts:
        values = {}
        reader = prepared.reader.for_part(prepared.suites[part])
        for name, suite in prepared.suites[part].items():
            with within(f"task.{part}.{name}"):
                score = _asked_once(suite, name, kept / part, run, reader, model, control)
            if isinstance(suite, Suite) or suite.is_score:
                values[name] = score.value
            metrics[f"eval/{part}/{name}_{score.metric}"] = score.value
            answers += [{"part": part, "suite": name, **row} for row in score.answers]
        scores[part] = values | {"mean": fmean(values.values())}
        metrics[f"eval/{part}_mean"] = scores[part]["mean"]
    return Evaluated(scores=scores, metrics=metrics, answers=answers)


def _base(run: Run, model: PreTrainedModel) -> PreTrainedModel:
    """Load a run's model as it was before any training, onto the device of `model`."""
    base = to_device(run.model.load_model(), model.device.type)
    base.eval()  # type: ignore[no-untyped-call]
    return base


def folder_of_base(run: Run, sources: Sources, device: str) -> Path:
    """Where the base's answers to what the task asks are kept: every run that would get the same ones reads them.

    They are the same for the same model and task, the same files of the hub, the same code, the same versions of
    libraries and the same kind of device. The code is this package as it lies there, uncommitted changes included, and
    that of a model or task from outside.

    Args:
        run: of the base.
        sources: of the run, see gmt.runs.sources.
        device: `cpu` or `cuda`.
    """
    asked = {key: run.science[key] for key in ("model", "task", "fingerprints")}
    code = code_of({key: run.config[key] for key in ("model", "task")}) | of_hub(sources)
    ran_on = {"versions": environment()["versions"], "device": kind_of_device(device, run.resources.cpus)}
    return run.record_settings.runs.parent / "base" / run_id(asked | {"code": code} | ran_on)


def _asked_once(
    suite: Suite | Benchmark,
    name: str,
    kept: Path,
    run: Run,
    reader: Reader,
    model: PreTrainedModel,
    control: Control,
) -> Score:
    """The score that is kept, or a new one; of processes that want the same at once, one asks and the others wait."""
    file = kept / f"{name}.json"
    scratch = kept / "scratch" / name
    scratch.mkdir(parents=True, exist_ok=True)
    with alone(kept / f"{name}.lock", control):
        if file.exists() and (score := read_score(file)) is not None:
            return score
        run.record.note_asking(name)
        asked = Asked(
            **vars(reader),
            model=model,
            cpus=run.resources.cpus,
            scratch=scratch,
            on_progress=progress_reporter(name, run.record, control),
            base=lambda: _base(run, model),
        )
        try:
            score = ask(suite, asked) if isinstance(suite, Suite) else suite.evaluate(asked)
        finally:
            run.record.note_asking(None)
        write_score(file, score)
        with suppress(OSError):
            remove(scratch, kept)
    return score

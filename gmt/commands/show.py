"""`gmt show RUN`: prints one run record."""

from collections.abc import Mapping, Sequence
from typing import Any

from gmt.composition import Composer, hydra_on
from gmt.duration import duration
from gmt.records.derived import contradiction_in, contradiction_of_answers
from gmt.records.digests import LARGE
from gmt.records.finding import find_record
from gmt.records.record import RunRecord
from gmt.records.result import Result, TrainFacts
from gmt.runs.build import settings_of
from gmt.runs.settings import RecordSettings
from gmt.terminal import say, table

_SAMPLES = 5


def show(run: str, overrides: Sequence[str], config_dir: str | None, *, brief: bool) -> None:
    """Print a record: the run's result, then its settings.

    Args:
        run: a run id or its first digits.
        overrides: the user's overrides, for `record.root`.
        config_dir: a config folder of the user's own, or None.
        brief: whether to leave the settings out.

    Raises:
        UserError: no run id, or more than one, begins with `run`, or the record was cut or edited.
    """
    with hydra_on(config_dir):
        config = Composer().compose_plain(overrides)
    record = record_of(config, run)
    stored, status = record.read("config.json"), record.status()
    state = record.state(also=LARGE)
    say(f"run {record.id}: {state}, attempt {status.get('attempts', 0)}\nrecord: {record.folder}\n")
    if status.get("error"):
        say(f"{status['error']}\n{_traceback(record)}")
    if state in ("done", "changed"):
        for sentence in _doubts(record):
            say(f"warning: {sentence}\n")
        _show_result(record)
    if not brief:
        say(table(["setting", "value"], [[k, v] for k, v in flat(stored["science"])]))


def record_of(config: Mapping[str, Any], run: str) -> RunRecord:
    """Return the record of a run below the config's `record.root`.

    Args:
        config: the composed config.
        run: a run id or its first digits.

    Raises:
        UserError: no run id, or more than one, begins with `run`, or the record was cut or edited.
    """
    record = find_record(settings_of("record", RecordSettings, config["record"]).runs, run)
    record.check()
    return record


def _doubts(record: RunRecord) -> list[str]:
    """Return a sentence for each reason to doubt a finished run's numbers."""
    if (change := record.change(also=LARGE)) is not None:
        return [change]
    result = record.result()
    contradictions = [contradiction_in(record, result)]
    task = record.read("config.json")["science"]["task"]
    for when, scores in (("before", result.before), ("after", result.after)):
        if (record.folder / (name := f"answers_{when}.jsonl")).exists():
            contradictions.append(contradiction_of_answers(task, scores, record.read_lines(name)))
    doubts = [record.changed_in_words(clause) for clause in contradictions if clause is not None]
    if not record.has_digests():
        doubts.append("this record is older than digests: a later change of its files can't be detected")
    return doubts


def _traceback(record: RunRecord) -> str:
    path = record.folder / "error.txt"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as pairs of a dotted name and a text."""
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        pairs += flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else [(prefix + key, str(item))]
    return pairs


def _density(density: float | None, requested: float | None) -> dict[str, str]:
    """Return the row on a mask's density; no row for a method that does not mask."""
    if density is None:
        return {}
    return {"density": f"{density:.4f} (requested: {'none' if requested is None else f'{requested:.4f}'})"}


def _trained(result: Result, training: TrainFacts) -> dict[str, str]:
    """Return the rows on trained parameters and the optimizer's state; a fact that an older record lacks has no row."""
    rows = {}
    if result.num_trainable is not None:
        rows["trainable"] = f"{result.num_trainable:,} parameters, of which the method has added {result.num_added:,}"
    if training.num_trained is not None:
        touched = "an unknown number" if training.num_touched is None else f"{training.num_touched:,}"
        rows["trained"] = f"{training.num_trained:,.0f} entries at a step, {touched} at some step"
    if training.optimizer_state_bytes is not None:
        rows["optimizer state"] = f"{training.optimizer_state_bytes / 2**20:,.1f} MiB, without the memory of the mask"
    return rows


def _number(score: object) -> str:
    """Return the score of an answer with four digits; a benchmark's may be missing or a text."""
    return f"{score:.4g}" if isinstance(score, int | float) else str(score)


def _change_norm(result: Result) -> dict[str, str]:
    """Return the row on the norm of the weights' change; no row if an older record lacks it."""
    if result.delta_norm is None or result.relative_delta_norm is None:
        return {}
    return {"norm of the change": f"{result.delta_norm:.4g}, {result.relative_delta_norm:.2%} of the base's norm"}


def _training(result: Result, training: TrainFacts) -> dict[str, str]:
    """Return the rows on a training."""
    times = {
        "forward_backward": training.forward_backward_s,
        "mask": training.mask_s,
        "optimizer": training.optimizer_s,
    }
    return {
        **_density(training.density, result.target_density),
        **_trained(result, training),
        "step": " + ".join(f"{part} {seconds * 1000:.1f} ms" for part, seconds in times.items()),
        "tokens": f"{training.num_tokens:,} in {training.num_steps:,} steps",
        "examples": f"{result.num_train_examples:,}, {result.num_dropped_examples:,} dropped as too long",
        "peak memory": f"{training.peak_memory_bytes / 2**20:,.0f} MiB",
    }


def _show_result(record: RunRecord) -> None:
    result = record.result()
    scores = [
        [part, suite, f"{before:.1%}", f"{result.after[part][suite]:.1%}"]
        for part in ("target", "source")
        for suite, before in result.before[part].items()
    ]
    say(table(["part", "suite", "before", "after"], scores) + "\n")
    metrics = result.metrics
    facts = {
        name.removeprefix("eval/"): f"{before:.4g} -> {metrics['after'][name]:.4g}"
        for name, before in metrics["before"].items()
        if name.endswith(("perplexity", "_nll", "_kl"))
    }
    facts |= {
        "moved fraction": f"{result.moved_fraction:.4f} of the base's parameters",
        **_change_norm(result),
        "evaluated": f"a model of {result.num_parameters:,} parameters",
        **({} if result.training is None else _training(result, result.training)),
        **_selected(record, result),
        "time": "unknown: no end of an attempt was recorded" if result.seconds is None else duration(result.seconds),
    }
    say(table(["fact", "value"], [[k, v] for k, v in facts.items()]) + "\n")
    answers = record.read_lines("answers_after.jsonl")[:_SAMPLES]
    say(
        table(
            ["prompt", "answer", "score"],
            [[repr(a["prompt"]), repr(a["answer"]), _number(a["score"])] for a in answers],
        )
        + "\n"
    )


def _selected(record: RunRecord, result: Result) -> dict[str, str]:
    """Return the row on the chosen examples and the range of their scores; no row for a run without a selection."""
    if result.num_not_selected_examples is None:
        return {}
    rows = [row for row in record.read_lines("selection.jsonl") if row["chosen"]]
    name = record.read("config.json")["science"]["selection"]["name"]
    num_all = len(rows) + result.num_not_selected_examples
    scores = [row["score"] for row in rows if row["score"] is not None]
    ranked = f", with scores from {min(scores):.4g} to {max(scores):.4g}" if scores else ""
    return {"selected": f"{len(rows):,} of {num_all:,} examples by {name}{ranked}"}

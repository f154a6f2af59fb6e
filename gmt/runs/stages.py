"""The stages of a run: evaluate the base, choose examples, make weights, evaluate the weights.

Each stage is a function of the run's context and of the results of earlier stages. Results of an earlier attempt are
read from the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gmt.masking.bits import weights_sha256
from gmt.records.result import Result, Scores
from gmt.runs.choose import choose
from gmt.runs.evaluate import evaluate, folder_of_base
from gmt.runs.evaluated import Evaluated
from gmt.runs.final_weights import FinalWeights
from gmt.runs.merge_stage import STEP, merge_weights
from gmt.runs.run_context import RunContext
from gmt.runs.train_stage import train_weights
from gmt.training.alike import check_steps


@dataclass(frozen=True, kw_only=True)
class _BaseEvaluation:
    """The scores and metrics of the base, as in `Evaluated`."""

    scores: Scores
    metrics: Mapping[str, float]


def do_stages(context: RunContext) -> Result:
    """Execute the remaining stages of a run; its record then has everything except the result.

    Returns:
        The result, without the seconds that the run took.
    """
    before = _evaluate_base(context)
    context = choose(context) if context.run.merge is None else context
    weights = train_weights(context) if context.run.merge is None else merge_weights(context)
    sha256 = weights_sha256(dict(weights.model.named_parameters()))
    after = _evaluate_weights(context, weights, sha256)
    if context.run.record_settings.keep_weights:
        weights.save(context.record.folder)
    return _result(context, before, weights, sha256, after)


def _evaluate_base(context: RunContext) -> _BaseEvaluation:
    """Return the base's scores and metrics; runs of a process for which they would be the same share them."""
    run, record = context.run, context.record
    if (record.folder / "before.json").exists():
        stored = record.read("before.json")
        return _BaseEvaluation(scores=stored["scores"], metrics=stored["metrics"])
    evaluations, folder = context.prepared.base_evaluations, folder_of_base(run, context.sources, context.device)
    if folder not in evaluations:
        model = context.model()
        if run.merge is None:  # these errors would otherwise stop the training, after hours of evaluation
            check_steps(model, context.prepared.reader.tokenizer, context.prepared.examples, run.train)
        evaluations[folder] = evaluate(run, context.prepared, model, folder, context.control)
    evaluated = evaluations[folder]
    evaluated.write_answers(record, "before")
    record.keep_metrics_until(-1)
    record.append_metrics(0, evaluated.metrics)
    before = _BaseEvaluation(scores=evaluated.scores, metrics=evaluated.metrics)
    record.write("before.json", vars(before))
    return before


def _evaluate_weights(context: RunContext, weights: FinalWeights, sha256: str) -> Evaluated:
    folder = context.record.folder / "evaluation" / sha256[:16]
    prepared = context.prepared.for_method(context.run.method)
    after = evaluate(context.run, prepared, weights.model, folder, context.control)
    after.write_answers(context.record, "after")
    context.record.append_metrics(STEP if weights.training is None else weights.training.num_steps, after.metrics)
    return after


def _result(
    context: RunContext, before: _BaseEvaluation, weights: FinalWeights, sha256: str, after: Evaluated
) -> Result:
    prepared, settings = context.prepared, weights.settings
    is_trained = weights.training is not None
    return Result(
        before=before.scores,
        after=after.scores,
        metrics={"before": before.metrics, "after": after.metrics},
        forgetting=before.scores["source"]["mean"] - after.scores["source"]["mean"],
        training=weights.training,
        micro_batch_size=None if settings is None else settings.micro_batch_size,
        accumulation_steps=None if settings is None else settings.accumulation_steps,
        target_density=context.run.method.target_density if is_trained else None,
        moved_fraction=weights.delta.moved_fraction,
        delta_norm=weights.delta.norm,
        relative_delta_norm=weights.delta.relative_norm,
        num_parameters=weights.model.num_parameters(),
        num_trainable=weights.sizes.num_trainable,
        num_added=weights.sizes.num_added,
        num_train_examples=prepared.num_examples if is_trained else 0,
        num_dropped_examples=prepared.num_dropped if is_trained else 0,
        num_left_over_examples=prepared.num_left_over if is_trained else 0,
        num_not_selected_examples=prepared.num_not_selected if is_trained else None,
        weights_sha256=sha256,
        seconds=None,
    )

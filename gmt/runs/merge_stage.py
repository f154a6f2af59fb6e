"""The stage of a run that merges the weights of finished runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from gmt.errors import Diverged, Interrupted
from gmt.masking.bits import weights_sha256
from gmt.merges.protocol import ChoosesParents, Formula, learns
from gmt.runs.build import Run
from gmt.runs.evaluate import evaluate
from gmt.runs.final_weights import FinalWeights, save_whole
from gmt.runs.merge_gradients import MergeGradients
from gmt.runs.parent_weights import StoredWeights, open_parents
from gmt.runs.parents import check_parents, parents_of
from gmt.runs.run_context import RunContext, to_device
from gmt.runs.validation import validation_suites
from gmt.training.delta import delta_of
from gmt.training.reshaping import Sizes

STEP = 1  # the step at which a merge's metrics are logged; the base's metrics are at step 0
_PART = "validation"


def merge_weights(context: RunContext) -> FinalWeights:
    """Return the merged weights, computed tensor by tensor in float32 on the CPU; a second attempt gives the same bits.

    Raises:
        UserError: a parent is not done, its files are not the weights that it ended with, or the merge can't work with
            the model.
        Interrupted: `control` demanded a stop.
    """
    run, merge = context.run, context.run.merge
    assert merge is not None
    check_parents(run)
    context.record.keep_metrics_until(0)
    model = context.model()
    weights = weights_for(run, {name: parameter.dtype for name, parameter in model.named_parameters()})
    if isinstance(merge, ChoosesParents):
        weights = weights.only(_chosen(context, merge, model, weights))
    _fill(context, _formula(context, model, weights), model)
    return FinalWeights(
        model=model,
        delta=delta_of(model, run.model.base()),
        sizes=Sizes(num_trainable=0, num_added=0),
        training=None,
        settings=None,
        save=lambda folder: save_whole(model, context.prepared.reader.tokenizer, folder),
    )


def weights_for(run: Run, dtype: Mapping[str, torch.dtype]) -> StoredWeights:
    """Open the weights that a merge reads.

    Args:
        run: the merge.
        dtype: the dtype of each tensor of the merged model, by name.

    Raises:
        UserError: a parent's files are not the weights that it ended with.
    """
    base_tensors = dict(run.model.base().named_parameters())
    return StoredWeights(base_tensors=base_tensors, dtype=dtype, parents=open_parents(run, parents_of(run)))


def _formula(context: RunContext, model: PreTrainedModel, weights: StoredWeights) -> Formula:
    """Return the merge's formula; a merge that learns from examples changes the model's weights while it learns."""
    merge = context.run.merge
    assert merge is not None
    if not learns(merge):
        return merge.formula(weights, seed=seed_of(context.run))
    gradients = MergeGradients(
        context, model, lambda formula: _fill(context, formula, model), batch_size=merge.batch_size
    )
    formula = merge.learnt_formula(weights, gradients)
    context.record.append_metrics(STEP, gradients.facts())
    return formula


@torch.no_grad()
def _fill(context: RunContext, formula: Formula, model: PreTrainedModel) -> None:
    """Put merged tensors into a model, in place, each rounded once to the model's dtype."""
    for name, parameter in model.named_parameters():
        context.control.on_progress()
        if context.control.should_stop():
            raise Interrupted("stopped on request while weights were merged")
        merged = formula(name).to(parameter.dtype)
        if not bool(torch.isfinite(merged).all()):
            raise Diverged(f"the merged weights of {name} hold NaN or Inf")
        parameter.copy_(merged)


def seed_of(run: Run) -> int:
    """Return the seed of a merge's random draws; merges of different parents draw independently."""
    text = "/".join([str(run.seed), *run.parent_ids])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _chosen(
    context: RunContext, merge: ChoosesParents, model: PreTrainedModel, weights: StoredWeights
) -> Sequence[int]:
    """Return the numbers of the chosen parents; log the score of each parent alone, and whether it was chosen."""
    suites = validation_suites(merge.validation, context.prepared)
    prepared = replace(context.prepared, suites={_PART: suites})
    scores_alone: dict[int, float] = {}

    def score(members: Sequence[int]) -> float:
        _fill(context, merge.formula(weights.only(members), seed=seed_of(context.run)), model)
        to_device(model, context.device)
        folder = context.record.folder / "evaluation" / f"{_PART}-{weights_sha256(dict(model.named_parameters()))[:16]}"
        mean = evaluate(context.run, prepared, model, folder, context.control, parts=(_PART,)).scores[_PART]["mean"]
        if len(members) == 1:
            scores_alone[members[0]] = mean
        return mean

    chosen = merge.choose(weights.num_parents, score)
    facts = {f"merge/parent_{number}/validation": value for number, value in scores_alone.items()}
    facts |= {f"merge/parent_{number}/taken": float(number in chosen) for number in range(weights.num_parents)}
    context.record.append_metrics(STEP, facts)
    return chosen

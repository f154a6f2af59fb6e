"""Checks without weights, before a run or sweep starts, whether the method works with the model and the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from gmt.errors import UserError
from gmt.methods.protocol import fits_every_model
from gmt.models.protocol import HasSkeleton
from gmt.runs.build import Run
from gmt.runs.prepare import Prepared
from gmt.training.method_trial import try_method
from gmt.training.reshaping import Examples, check_num_examples

_faults: dict[str, Sequence[str]] = {}  # the faults that this process's trials found, by `_key`; many runs share a key


def check_method(run: Run, prepared: Prepared, load: Callable[[], PreTrainedModel | None]) -> None:
    """Refuse a method that can't work with the run's model.

    Args:
        run: a run that trains.
        prepared: the run's examples.
        load: returns the model, with or without weights, which is not changed; None if the model is not known yet.

    Raises:
        UserError: the method takes more examples than there are, can't work with the model, or its parts can't be
            merged for record.keep_weights=merged.
    """
    if fits_every_model(run.method):
        return
    key = _key(run, prepared)
    if key not in _faults:
        if (model := load()) is None:
            return
        _faults[key] = _faults_of_trial(run, prepared, model)
    if _faults[key]:
        raise UserError(*_faults[key])


def check_method_on_skeleton(run: Run, prepared: Prepared) -> None:
    """Refuse a method as `check_method` does, without loading weights; a model without a skeleton is not checked here.

    Raises:
        UserError: as `check_method`.
    """
    check_num_examples(run.method, len(prepared.examples))
    if isinstance(run.model, HasSkeleton):
        check_method(run, prepared, run.model.skeleton)


def _faults_of_trial(run: Run, prepared: Prepared, model: PreTrainedModel) -> Sequence[str]:
    """Try the method on the model; return the sentences with which it is refused, or nothing if it works."""

    def examples() -> Examples | None:
        if run.selection is not None:  # the selection decides the rows later
            return None
        from gmt.training.paradigms import collator  # TRL takes seconds

        collate = collator(run.train, prepared.reader.tokenizer)
        return Examples(rows=prepared.examples, collate=collate, device="cpu")

    try:
        try_method(
            run.method,
            model,
            run.train,
            seed=run.seed,
            num_rows=len(prepared.examples),
            examples=examples,
            must_merge=run.record_settings.keeps_whole,
            is_checkpointed=getattr(run.model, "gradient_checkpointing", False),
        )
    except UserError as error:
        return error.sentences
    return ()


def _key(run: Run, prepared: Prepared) -> str:
    """Return the values that a trial's result depends on; the seed is left out, so one seed stands for all."""
    train_settings = (run.train.optimizer, run.train.momentum, run.train.packing)
    others = (len(prepared.examples), run.selection is None, run.record_settings.keeps_whole)
    return repr((run.science["fingerprints"], run.model, run.method, train_settings, others))

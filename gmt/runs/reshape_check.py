"""Whether a run's method fits its model and examples, tried without weights before the run, or its sweep, starts."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from gmt.methods.protocol import ReshapesModel
from gmt.models.protocol import HasSkeleton
from gmt.plug_ins import faults_of
from gmt.runs.build import Run
from gmt.runs.prepare import Prepared
from gmt.training.reshaping import check_num_examples, check_reshaping


def check_method(run: Run, prepared: Prepared, load: Callable[[], PreTrainedModel]) -> None:
    """Refuse a method that can't work with the run's model.

    Args:
        run: a run that is trained.
        prepared: the run's examples.
        load: returns the model, with or without weights; it is left as it is.

    Raises:
        UserError: the method takes more examples than there are, can't reshape the model, or its parts can't be merged
            for record.keep_weights=merged.
    """
    with faults_of("method", run.method, "can't reshape the model"):
        check_reshaping(
            run.method,
            load,
            seed=run.seed,
            num_rows=len(prepared.examples),
            must_merge=run.record_settings.keeps_whole,
            is_checkpointed=getattr(run.model, "gradient_checkpointing", False),
        )


def check_method_on_skeleton(run: Run, prepared: Prepared) -> None:
    """Refuse likewise, without loading weights; a model that has no skeleton is tried when its run starts.

    Raises:
        UserError: as `check_method`.
    """
    check_num_examples(run.method, len(prepared.examples))
    if not isinstance(run.method, ReshapesModel):
        return
    if isinstance(run.model, HasSkeleton) and (skeleton := run.model.skeleton()) is not None:
        check_method(run, prepared, lambda: skeleton)

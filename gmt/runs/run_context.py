"""The values that every stage of a run reads."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from gmt.records.record import RunRecord
from gmt.runs.build import Run
from gmt.runs.prepare import Prepared
from gmt.runs.sources import Sources
from gmt.training.control import Control


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One attempt at a run.

    Args:
        run: the run.
        record: the run's record.
        prepared: the run's examples, suites and reader.
        control: receives progress, and may demand a stop.
        device: `cpu` or `cuda`.
        sources: the files of model and task, see gmt.runs.sources.
    """

    run: Run
    record: RunRecord
    prepared: Prepared
    control: Control
    device: str
    sources: Sources

    def model(self) -> PreTrainedModel:
        """Return the run's model, newly loaded onto the device."""
        return to_device(self.run.model.load_model(), self.device)


def to_device(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Move a model to a device, in place, and return it."""
    model.to(device)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
    return model

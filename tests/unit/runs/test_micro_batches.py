"""Methods that choose by a micro-batch's gradient are never given smaller micro-batches than their id says."""

from typing import Any

import pytest
import torch

from gmt.composition import Composer, hydra_on
from gmt.machine_faults import is_out_of_gpu_memory
from gmt.runs import train_stage
from gmt.runs.build import build


class Record:
    """A run's record as far as this stage reads and writes it."""

    def __init__(self) -> None:
        self.changes: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        return self.changes

    def set_status(self, state: str, **changes: Any) -> None:
        self.changes |= changes


class Context:
    def __init__(self, *overrides: str):
        with hydra_on(None):
            self.run = build(Composer().compose_plain([*overrides, "train.micro_batch_size=8"]))
        self.record = Record()


def train(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[int]:
    """Return the sizes that are tried on a GPU that holds four examples."""
    tried: list[int] = []

    def train_once(context: Any, settings: Any) -> None:
        tried.append(settings.micro_batch_size)
        if settings.micro_batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_stage, "_train_once", train_once)
    train_stage.train_weights(Context(*overrides))  # type: ignore[arg-type]
    return tried


SIFT = ("method=sift", "method.moments=packed")


@pytest.mark.parametrize("overrides", [SIFT, ("method=spiel", "method.mask_ratio=0")])
def test_others_get_smaller_micro_batches(monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]) -> None:
    assert train(monkeypatch, *overrides) == [8, 4]


@pytest.mark.parametrize("overrides", [(*SIFT, "method.first_micro_batch=true"), ("method=spiel",)])
def test_what_reads_micro_batches_fails_and_says_why(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    sentence = (
        r"^train\.micro_batch_size=8 needs more memory than the GPU has, and method (sift|spiel) chooses entries by a "
        r"micro-batch's gradient.*set a smaller train\.micro_batch_size.*\(CUDA out of memory\)$"
    )
    with pytest.raises(torch.OutOfMemoryError, match=sentence) as caught:
        train(monkeypatch, *overrides)
    assert is_out_of_gpu_memory(caught.value)

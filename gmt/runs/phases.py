"""A training in phases, each with an optimizer, a schedule and checkpoints of its own.

The folder of the checkpoints holds the facts of each phase that has ended, and what it hands on. So a training goes on
in the phase in which it stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from gmt.methods.protocol import Method, TrainsInPhases
from gmt.plug_ins import check_protocol
from gmt.records.record import write_whole
from gmt.records.result import TrainFacts
from gmt.removal import remove
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.workers import agreed, index, meet

Train = Callable[[Method, Path, int], TrainFacts]
"""Trains by a method, with checkpoints in a folder, after so many steps of earlier phases."""


def train_in_phases(
    method: TrainsInPhases,
    model: PreTrainedModel,
    base: Callable[[], PreTrainedModel],
    checkpoints: Path,
    train: Train,
) -> TrainFacts:
    """Train phase after phase; every worker must call it.

    Args:
        method: says what each phase begins with, and what it hands on.
        model: the base's weights; trained in place.
        base: makes the model as it was before any training.
        checkpoints: a folder that all workers see.
        train: does one phase.

    Returns:
        The facts of all phases together: sums, and means over all steps.
    """
    carried: list[Mapping[str, Tensor]] = []
    facts: list[TrainFacts] = []
    for number in range(method.num_phases):
        if not agreed(_facts_file(checkpoints, number).exists()):
            phase = method.begin_phase(number, model, carried, base=base)
            check_protocol(f"phase {number} of the method", phase, Method)
            of_phase = train(phase, _folder(checkpoints, number), sum(each.num_steps for each in facts))
            if number == method.num_phases - 1:
                return _together([*facts, of_phase])
            if index() == 0:
                _keep(checkpoints, number, method.end_phase(number, model, base=base), of_phase)
            meet()
        facts.append(_facts(checkpoints, number))
        carried.append(load_file(_tensors_file(checkpoints, number)))
    raise AssertionError("the last phase hands nothing on, and is gone on with from its checkpoints")


def num_steps_kept(method: Method, checkpoints: Path) -> int:
    """Return after how many steps a training goes on."""
    steps = 0
    if isinstance(method, TrainsInPhases):
        for number in range(method.num_phases):
            if not _facts_file(checkpoints, number).exists():
                checkpoints = _folder(checkpoints, number)
                break
            steps += _facts(checkpoints, number).num_steps
    resumed = last_whole_checkpoint(checkpoints)
    return steps + (int(resumed.name.rpartition("-")[2]) if resumed else 0)


def _keep(checkpoints: Path, number: int, tensors: Mapping[str, Tensor], facts: TrainFacts) -> None:
    """Write what a phase hands on, its facts last, which say that it has ended; its checkpoints go."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    whole = _tensors_file(checkpoints, number)
    part = whole.with_suffix(".part")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
    part.replace(whole)
    write_whole(_facts_file(checkpoints, number), json.dumps(dataclasses.asdict(facts)))
    remove(_folder(checkpoints, number), checkpoints)


def _together(facts: list[TrainFacts]) -> TrainFacts:
    steps = [each.num_steps for each in facts]

    def mean(values: list[float]) -> float:
        return sum(value * number for value, number in zip(values, steps, strict=True)) / sum(steps)

    densities = [each.density for each in facts if each.density is not None]
    return TrainFacts(
        num_steps=sum(steps),
        num_tokens=sum(each.num_tokens for each in facts),
        density=mean(densities) if len(densities) == len(facts) else None,
        forward_backward_s=mean([each.forward_backward_s for each in facts]),
        mask_s=mean([each.mask_s for each in facts]),
        optimizer_s=mean([each.optimizer_s for each in facts]),
        num_cold_steps=sum(each.num_cold_steps or 0 for each in facts),
        seconds=sum(each.seconds for each in facts),
        peak_memory_bytes=max(each.peak_memory_bytes for each in facts),
    )


def _folder(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"phase-{number}"


def _facts_file(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"phase-{number}.json"


def _tensors_file(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"phase-{number}.safetensors"


def _facts(checkpoints: Path, number: int) -> TrainFacts:
    return TrainFacts(**json.loads(_facts_file(checkpoints, number).read_text(encoding="utf-8")))

"""A training in phases, each with its own optimizer, schedule and checkpoints.

The folder of the checkpoints stores the facts of each finished phase and the tensors that it hands on, so that a
training resumes in the phase in which it stopped.
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
from gmt.training.workers import barrier, broadcast, index

Train = Callable[[Method, Path, int], TrainFacts]
"""Trains one phase: a method, the folder of its checkpoints, and the number of steps of earlier phases."""


def train_in_phases(
    method: TrainsInPhases,
    model: PreTrainedModel,
    base: Callable[[], PreTrainedModel],
    checkpoints: Path,
    train: Train,
) -> TrainFacts:
    """Train phase after phase; every worker must call this.

    Args:
        method: begins each phase, and makes the tensors that the phase hands on.
        model: the model with the base's weights; trained in place.
        base: returns the model as it was before any training.
        checkpoints: a folder that all workers can read.
        train: trains one phase.

    Returns:
        The facts of all phases together: sums, and means over all steps.
    """
    carried: list[Mapping[str, Tensor]] = []
    facts: list[TrainFacts] = []
    for number in range(method.num_phases):
        if not broadcast(_facts_file(checkpoints, number).exists()):
            phase = method.begin_phase(number, model, carried, base=base)
            check_protocol(f"phase {number} of the method", phase, Method)
            phase_facts = train(phase, _folder(checkpoints, number), sum(earlier.num_steps for earlier in facts))
            if number == method.num_phases - 1:
                return _combined([*facts, phase_facts])
            if index() == 0:
                _store(checkpoints, number, method.end_phase(number, model, carried, base=base), phase_facts)
            barrier()
        facts.append(_facts(checkpoints, number))
        carried.append(load_file(_tensors_file(checkpoints, number)))
    raise AssertionError("the facts of the last phase are never stored, so the loop above trains it and returns")


def num_steps_done(method: Method, checkpoints: Path) -> int:
    """Return the number of steps after which a training resumes."""
    steps = 0
    if isinstance(method, TrainsInPhases):
        for number in range(method.num_phases):
            if not _facts_file(checkpoints, number).exists():
                checkpoints = _folder(checkpoints, number)
                break
            steps += _facts(checkpoints, number).num_steps
    resumed = last_whole_checkpoint(checkpoints)
    return steps + (int(resumed.name.rpartition("-")[2]) if resumed else 0)


def _store(checkpoints: Path, number: int, tensors: Mapping[str, Tensor], facts: TrainFacts) -> None:
    """Write the tensors that a phase hands on, then its facts, which mark it as finished; remove its checkpoints."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    file = _tensors_file(checkpoints, number)
    incomplete = file.with_suffix(".part")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, incomplete)
    incomplete.replace(file)
    write_whole(_facts_file(checkpoints, number), json.dumps(dataclasses.asdict(facts)))
    remove(_folder(checkpoints, number), checkpoints)


def _combined(facts: list[TrainFacts]) -> TrainFacts:
    steps = [phase.num_steps for phase in facts]

    def mean(values: list[float]) -> float:
        return sum(value * number for value, number in zip(values, steps, strict=True)) / sum(steps)

    densities = [phase.density for phase in facts if phase.density is not None]
    trained = [phase.num_trained for phase in facts if phase.num_trained is not None]
    touched = [phase.num_touched for phase in facts if phase.num_touched is not None]
    return TrainFacts(
        num_steps=sum(steps),
        num_tokens=sum(phase.num_tokens for phase in facts),
        density=mean(densities) if len(densities) == len(facts) else None,
        forward_backward_s=mean([phase.forward_backward_s for phase in facts]),
        mask_s=mean([phase.mask_s for phase in facts]),
        optimizer_s=mean([phase.optimizer_s for phase in facts]),
        num_cold_steps=sum(phase.num_cold_steps or 0 for phase in facts),
        seconds=sum(phase.seconds for phase in facts),
        peak_memory_bytes=max(phase.peak_memory_bytes for phase in facts),
        optimizer_state_bytes=max(phase.optimizer_state_bytes or 0 for phase in facts) or None,
        num_trained=mean(trained) if len(trained) == len(facts) else None,
        num_touched=max(touched) if len(touched) == len(facts) else None,  # later phases touch some of the same entries
    )


def _folder(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"phase-{number}"


def _facts_file(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"phase-{number}.json"


def _tensors_file(checkpoints: Path, number: int) -> Path:
    return checkpoints / f"phase-{number}.safetensors"


def _facts(checkpoints: Path, number: int) -> TrainFacts:
    return TrainFacts(**json.loads(_facts_file(checkpoints, number).read_text(encoding="utf-8")))

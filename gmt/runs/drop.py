"""What is left of a fine-tuning when part of its delta is dropped after training, once: the contrast to masking in it.

Yu et al. (2024, arXiv 2311.03099, DARE) drop entries of the delta at random and rescale the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from gmt.errors import UserError
from gmt.masking.rule import num_masked
from gmt.records.reading import objects_of
from gmt.records.record import RunRecord
from gmt.runs.build import Run
from gmt.runs.device import device_of
from gmt.runs.evaluate import evaluate
from gmt.runs.prepare import prepare
from gmt.training.control import Control
from gmt.training.weights import weights_sha256

RANDOM, RESCALED, SMALLEST = "random", "random, rescaled", "smallest"
WAYS = (RANDOM, RESCALED, SMALLEST)
_FILE = "drops.jsonl"


def drop(run: Run, fractions: Sequence[float], ways: Sequence[str] = WAYS) -> list[dict[str, Any]]:
    """Evaluates a finished run with part of its delta dropped; what was evaluated before is read from its record.

    Args:
        run: done, with its weights kept.
        fractions: of each tensor's entries that are set back to the base's, in [0, 1), by floor as a mask's.
        ways: `random`; `random, rescaled`: what stays is divided by 1 - fraction; `smallest`: those of least magnitude.

    Returns:
        A row for each way and fraction: way, fraction, and target and source, the means of the suites' scores.

    Raises:
        UserError: the run is not done, was changed since, has no weights, or a fraction or way is none.
        RecordBusy: another process is at it.
    """
    record = run.record
    _check(record, fractions, ways)
    torch.set_num_threads(run.resources.cpus)
    with record.at_work():
        known = {(row["way"], row["fraction"]): row for row in _kept(record)}
        for way, fraction in _wanted(fractions, ways):
            if (way, fraction) not in known:
                known[way, fraction] = _evaluated(run, way, fraction)
                record.write_later(_FILE, "".join(json.dumps(row) + "\n" for row in known.values()))
        record.drop_evaluation()
    return [known[each] for each in _wanted(fractions, ways)]


def _wanted(fractions: Sequence[float], ways: Sequence[str]) -> Iterator[tuple[str, float]]:
    return ((way, float(fraction)) for way in ways for fraction in fractions)


def _check(record: RunRecord, fractions: Sequence[float], ways: Sequence[str]) -> None:
    record.check_unchanged()
    if (record.folder / "adapter").is_dir():
        raise UserError(f"a one-off drop needs the whole weights, and this run kept its adapter only: {record.folder}")
    if record.state() != "done" or not (record.folder / "weights").is_dir():
        raise UserError(f"a one-off drop needs a finished run with record.keep_weights=true, got {record.folder}")
    for fraction in fractions:
        if not 0 <= fraction < 1:
            raise UserError(f"the fraction that is dropped must lie in [0, 1), got {fraction}")
    if unknown := set(ways) - set(WAYS):
        raise UserError(f"a one-off drop is one of {'; '.join(WAYS)}, got {', '.join(unknown)}")


def _kept(record: RunRecord) -> list[dict[str, Any]]:
    file = record.folder / _FILE
    return objects_of(file.read_bytes().splitlines(), file) if file.exists() else []


def _evaluated(run: Run, way: str, fraction: float) -> dict[str, Any]:
    model = run.model.load_model()
    drop_(model, _weights(run.record, model), way, fraction, seed=run.seed)
    model.to(device_of(run.resources))  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
    kept = run.record.folder / "evaluation" / f"{way.replace(', ', '-')}-{fraction:g}"
    found = evaluate(run, prepare(run), model, kept, Control())
    means = {part: found.scores[part]["mean"] for part in ("target", "source")}
    return {"way": way, "fraction": fraction, **means}


@torch.no_grad()
def drop_(base: PreTrainedModel, tuned: dict[str, Tensor], way: str, fraction: float, *, seed: int) -> None:
    """Moves a base, in place, to what a one-off drop leaves of its fine-tuning.

    Args:
        base: the model before training.
        tuned: its weights after training, by name, tied ones once.
        way, fraction: as of `drop`.
        seed: of a random drop.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in base.named_parameters():
        base_N, tuned_N = parameter.flatten(), tuned[name].flatten()
        delta_N = tuned_N.float() - base_N.float()
        score_N = delta_N.abs() if way == SMALLEST else torch.rand(len(delta_N), generator=generator)
        keep = score_N.topk(len(delta_N) - num_masked(fraction, len(delta_N)), sorted=False).indices
        if way == RESCALED:
            tuned_N = (base_N.float() + delta_N / (1 - fraction)).to(base_N.dtype)
        parameter.copy_(base_N.index_copy(0, keep, tuned_N[keep]).view_as(parameter))


def _weights(record: RunRecord, base: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that a run ended with.

    Raises:
        UserError: they are others.
    """
    files = sorted((record.folder / "weights").glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    names = [name for name, _ in base.named_parameters()]
    is_whole = set(names) <= set(found)
    if not is_whole or weights_sha256((name, found[name]) for name in names) != record.result().weights_sha256:
        raise UserError(
            f"{record.folder / 'weights'} must hold the weights that run {record.id} ended with, and does not: "
            f"restore them, or delete {record.folder} to run it anew"
        )
    return found

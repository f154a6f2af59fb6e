"""Exports the delta of a finished run as an adapter of peft's Super-Tuning, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gmt.errors import UserError
from gmt.masking.deltas import changed_entries
from gmt.methods.supertuning import (
    adapter_part,
    check_peft,
    indices_key,
    linear_layers,
    padded_size,
    save_config,
    sparsity_for,
    values_key,
)
from gmt.runs.export_progress import OnProgress, Steps, share
from gmt.runs.exported_run import ExportedRun
from gmt.tensor_files import write_vectors

_FILE = "adapter_model.safetensors"


def write_supertuning(run: ExportedRun, folder: Path, on_progress: OnProgress) -> str:
    """Write a Super-Tuning adapter of a run's delta, and return a clause that describes it.

    Args:
        run: the run.
        folder: the folder, which must not exist yet.
        on_progress: called with the number of steps done and of all steps.

    Raises:
        UserError: the run changed weights outside of linear layers, or no weights at all.
    """
    check_peft()
    tuned, base = run.tuned, run.base
    model = run.model.base()
    layers, step = linear_layers(model), Steps(len(tuned), on_progress)
    counts: dict[str, tuple[int, int]] = {}
    for name in tuned:
        if num_changed := int(changed_entries(tuned[name], base[name]).sum()):
            counts[name] = (num_changed, tuned[name].numel())
        step.done()
    _check_linear(run, counts, layers)
    sparsity = sparsity_for(counts)
    sizes = {name: padded_size(num_all, sparsity) for name, (_, num_all) in counts.items()}
    num_inexact = sum(adapter_part(tuned[name], base[name], size).num_inexact for name, size in sizes.items())
    names = {layers[name]: name for name in counts}
    _write_vectors(folder, names, sizes, tuned, base)
    save_config(folder, list(names), sparsity, getattr(model.config, "_name_or_path", None) or None)
    num_changed, num_all = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    rounding = f"; {num_inexact:,} of them differ from the run's in their last bits, since peft adds differences"
    return (
        f"a Super-Tuning adapter of {share(num_changed, num_all)} in {len(counts)} linear layers, padded to "
        f"{sum(sizes.values()):,}{rounding if num_inexact else ''}"
    )


def _write_vectors(
    folder: Path,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
) -> None:
    keys: dict[str, tuple[str, bool]] = {indices_key(layer): (name, True) for layer, name in names.items()}
    keys |= {values_key(layer): (name, False) for layer, name in names.items()}
    vectors = {key: (torch.int32 if is_index else torch.float32, sizes[name]) for key, (name, is_index) in keys.items()}

    def vector_of(key: str) -> Tensor:
        name, is_index = keys[key]
        part = adapter_part(tuned[name], base[name], sizes[name])
        return part.indices_K if is_index else part.values_K

    folder.mkdir()
    write_vectors(folder / _FILE, vectors, vector_of, {"format": "pt"})


def _check_linear(run: ExportedRun, counts: Mapping[str, object], layers: Mapping[str, str]) -> None:
    others = [name for name in counts if name not in layers]
    if not counts:
        raise UserError(f"run {run.record.id} changed no weights, so that an adapter of it would be empty")
    if others:
        and_others = f" and {len(others) - 1} others" if len(others) > 1 else ""
        raise UserError(
            f"an adapter of peft's Super-Tuning holds the weights of linear layers that are not tied, but run "
            f"{run.record.id} changed {others[0]}{and_others}: export it by --delta or --merged, or train it with "
            "method.excluded=frozen and method.exclude for all other parameters"
        )

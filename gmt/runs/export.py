"""Exports a finished run: as a sparse delta, as an adapter that peft loads, or as a Hugging Face folder.

Each export is written whole or not at all, and reads the weights tensor by tensor.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.delta_files import save_difference
from gmt.masking.bits import weights_sha256
from gmt.placing import placed
from gmt.runs.export_progress import OnProgress, Steps, share
from gmt.runs.export_supertuning import write_supertuning
from gmt.runs.exported_run import ExportedRun

MARKER = "gmt_export.json"  # lies in every exported folder; names the run, and lets --force replace the folder
DELTA_FILE = "delta.safetensors"


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export that was written.

    Args:
        path: the file or folder.
        facts: a clause that describes its content.
    """

    path: Path
    facts: str


def delta_path(path: Path) -> Path:
    """Return the file of a delta: a path that ends with .safetensors, or the file in a folder."""
    return path if path.suffix == ".safetensors" else path / DELTA_FILE


def export_delta(run: ExportedRun, path: Path, *, force: bool, on_progress: OnProgress) -> Export:
    """Write the entries in which the run's weights differ from its base.

    Args:
        run: the run.
        path: a file, or a folder for the file.
        force: whether to replace an existing file.
        on_progress: called with the number of steps done and of all steps.

    Raises:
        UserError: the file exists already, or the run's weights can't be read.
    """
    path = delta_path(path)
    tuned, base = run.tuned, run.base  # may raise UserError, so they are read before a folder is made
    with placed(path, force=force) as new:
        provenance = run.provenance()
        metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in provenance.items()}
        step = Steps(3 * len(tuned), on_progress)
        counts = save_difference(
            tuned, base, new, base_sha256=weights_sha256(base), metadata=metadata, on_progress=step.done
        )
    num_all = sum(tensor.numel() for tensor in tuned.values())
    return Export(path=path, facts=f"{share(sum(counts.values()), num_all)} in {len(counts)} of {len(tuned)} tensors")


def export_merged(run: ExportedRun, path: Path, *, force: bool, on_progress: OnProgress) -> Export:
    """Write a folder that transformers loads: weights, configs and tokenizer.

    Args:
        run: the run.
        path: the folder.
        force: whether to replace an existing export.
        on_progress: called with the number of steps done and of all steps.

    Raises:
        UserError: the folder exists already, or the run's weights can't be read.
    """
    num_parameters = sum(tensor.numel() for tensor in run.tuned.values())  # `tuned` checks the files
    with placed(path, force=force, marker=MARKER) as new:
        if run.weights is not None:
            _copy(run.weights, new, on_progress)
        else:
            run.merged.save_pretrained(new)
            run.tokenizer().save_pretrained(new)
        _write_marker(new, run, "merged")
    return Export(path=path, facts=f"a model of {num_parameters:,} parameters with its tokenizer")


def export_peft(run: ExportedRun, path: Path, *, force: bool, on_progress: OnProgress) -> Export:
    """Write an adapter that peft loads: the run's adapter if the run trained nothing else, or a Super-Tuning adapter.

    Args:
        run: the run.
        path: the folder.
        force: whether to replace an existing export.
        on_progress: called with the number of steps done and of all steps.

    Raises:
        UserError: the folder exists already, the run's weights can't be read, or the run changed weights outside of
            linear layers.
    """
    with placed(path, force=force, marker=MARKER) as new:
        if run.peft_adapter is not None:
            _copy(run.peft_adapter, new, on_progress)
            facts = "the adapter that the run trained"
        else:
            facts = write_supertuning(run, new, on_progress)
        _write_marker(new, run, "peft")
    return Export(path=path, facts=facts)


def _copy(source: Path, target: Path, on_progress: OnProgress) -> None:
    target.mkdir()
    files = sorted(path for path in source.iterdir() if path.is_file())
    for number, file in enumerate(files, start=1):
        shutil.copyfile(file, target / file.name)
        on_progress(number, len(files))


def _write_marker(folder: Path, run: ExportedRun, kind: str) -> None:
    """Write the marker file, and wait until the whole folder is on the disk."""
    content: dict[str, Any] = {"format_version": 1, "kind": kind, **run.provenance()}
    (folder / MARKER).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())

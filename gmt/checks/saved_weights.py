"""The weights that a run saved: whether they load again, and how far they are from another run's."""

from __future__ import annotations

import math
from pathlib import Path

from gmt.records.record import RunRecord

_PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


def files_in_words(record: RunRecord) -> str:
    """Return the names of the files of weights, and their total size."""
    files = _files(record)
    size = sum(path.stat().st_size for path in files)
    return f"{', '.join(path.relative_to(record.folder).as_posix() for path in files)}, {size / 1e6:.1f} MB"


def faults_of_saved(record: RunRecord) -> list[str]:
    """Return a sentence for each fault of the saved weights."""
    pickled = [path for path in record.folder.rglob("*") if path.suffix in _PICKLED]
    if pickled:
        return [f"{_name(pickled[0], record)} may run code when it is loaded: save() must write safetensors"]
    if not _files(record):
        return ["record.keep_weights=true saved no safetensors: save() must write the trained weights"]
    if (record.folder / "weights").is_dir():
        return _faults_of_weights(record)
    return []


def _faults_of_weights(record: RunRecord) -> list[str]:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from gmt.masking.bits import weights_sha256

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(record.folder / "weights", dtype="auto")
    if weights_sha256(dict(model.named_parameters())) != record.result().weights_sha256:
        return ["weights/ loads with other values than the evaluated weights: save() must write the evaluated weights"]
    return []


def difference(one: RunRecord, other: RunRecord) -> float:
    """Return the Euclidean norm of the difference between two runs' saved weights; inf if names or shapes differ."""
    import torch
    from safetensors.torch import load_file

    total = 0.0
    files = [{_name(path, record): path for path in _files(record)} for record in (one, other)]
    if files[0].keys() != files[1].keys():
        return math.inf
    for name, path in files[0].items():
        a, b = load_file(path), load_file(files[1][name])
        if {k: t.shape for k, t in a.items()} != {k: t.shape for k, t in b.items()}:
            return math.inf
        total += sum(float(torch.sum((a[key].double() - b[key].double()) ** 2)) for key in a)
    return math.sqrt(total)


def _files(record: RunRecord) -> list[Path]:
    return sorted(record.folder.rglob("*.safetensors"))


def _name(path: Path, record: RunRecord) -> str:
    return path.relative_to(record.folder).as_posix()

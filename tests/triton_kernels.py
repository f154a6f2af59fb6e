"""The Triton kernels for tests: interpreted on the CPU in small blocks, or as they are compiled."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gmt.masking import entries, random_bits, select_alone, select_by_bracket, select_by_fields, selection, support
from gmt.masking.rule import Scores
from gmt.masking.selection import select

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MODULES = ("kernels", "sets", "tables", "bracket", "entries")  # each after those that it imports
NAME, SETS, TABLES, BRACKET, ENTRIES = (f"gmt.masking.triton_{name}" for name in MODULES)


def loaded(patch: pytest.MonkeyPatch, name: str, *, is_interpreted: bool) -> ModuleType:
    """A copy of kernels, which the rest of the program finds until the patch is undone."""
    patch.setenv("TRITON_INTERPRET", "1" if is_interpreted else "0")
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch.setitem(sys.modules, name, module)
    return module


def interpreted(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the kernels in the interpreter, in small blocks and by few programs, so that each takes several blocks."""
    module = loaded(monkeypatch, NAME, is_interpreted=True)
    sets, _, bracket, of_entries = (
        loaded(monkeypatch, name, is_interpreted=True) for name in (SETS, TABLES, BRACKET, ENTRIES)
    )
    _reduce_by_numpy(monkeypatch)
    assert module.add.fn(2, 3) == 5
    for blocks in (module, sets):
        monkeypatch.setattr(blocks, "BLOCK", 64)
    for blocks, size in ((bracket, "BLOCK"), (bracket, "SLOTS"), (bracket, "PART"), (of_entries, "BLOCK")):
        monkeypatch.setattr(blocks, size, 256)
    monkeypatch.setattr(bracket, "BLOCKS", 2)
    monkeypatch.setattr(module, "num_programs", lambda device: 3)
    monkeypatch.setattr(select_alone, "CHUNK", 1500)
    for name in ("_SAMPLES", "_FEWEST_SAMPLES"):
        monkeypatch.setattr(select_by_bracket, name, 100)
    return module


def _reduce_by_numpy(patch: pytest.MonkeyPatch) -> None:
    """Make the interpreter reduce by NumPy, as it does for tl.sum; else it calls our functions for single entries."""
    from triton.runtime.interpreter import ReduceOps, ScanOps

    one_by_one = ReduceOps.generic_reduce, ScanOps.generic_scan

    def reduced(self: Any, values: tuple[Any, ...]) -> Any:
        if _is(self, "add"):
            return self.sum(values[0])
        if _is(self, "larger"):
            return self.min_max(values[0], val_reduce_op=np.max)
        return one_by_one[0](self, values)

    def scanned(self: Any, values: tuple[Any, ...]) -> Any:
        return self.cumsum(values[0]) if _is(self, "add") else one_by_one[1](self, values)

    patch.setattr(ReduceOps, "generic_reduce", reduced)
    patch.setattr(ScanOps, "generic_scan", scanned)


def _is(operation: Any, name: str) -> bool:
    function = operation.combine_fn.fn
    return (function.__module__, function.__name__) == (NAME, name)


@contextmanager
def by_triton(kernels: ModuleType) -> Iterator[None]:
    """Sends tensors on the CPU the way of those on CUDA; fails if none arrives."""
    launch, launched = kernels.launch, []

    def counted(kernel: Any, *arguments: Any, **settings: Any) -> None:
        launched.append(kernel)
        launch(kernel, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "launch", counted)
        for name in (SETS, TABLES, BRACKET):
            patch.setattr(sys.modules[name], "launch", counted)
        for module in (entries, random_bits, select_by_bracket, select_by_fields, support):
            patch.setattr(module, "has_triton", lambda device: True)
        for name in ("select_alone", "select_over_chunks"):
            patch.setattr(selection, name, lambda groups, rule: {})
        yield
    assert launched


class Doubled:
    """Two shards that hold the same."""

    def sum_(self, counts: Tensor) -> None:
        counts.mul_(2)


def scores(*tensors: Tensor, shards: Doubled | None = None) -> list[Scores]:
    return [
        Scores(
            chunks=lambda t=t: iter(t.split(select_alone.CHUNK)),
            dtype=t.dtype,
            num_entries=len(t) * (2 if shards else 1),
            shards=shards,
            device=t.device,
        )
        for t in tensors
    ]


def assert_same(kernels: ModuleType, groups: list[list[Scores]], ratio: float, **rule: Any) -> None:
    expected = select(groups, ratio, **rule)
    with by_triton(kernels):
        assert select(groups, ratio, **rule) == expected

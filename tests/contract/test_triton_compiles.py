"""The Triton kernels are compiled for NVIDIA GPUs: the compiler refuses things that the interpreter takes."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from gmt.masking.counting import fields
from tests.triton_kernels import BRACKET, ENTRIES, NAME, SETS, TABLES, loaded

triton = pytest.importorskip("triton")


@pytest.mark.parametrize("kind", ["i32", "i16", "fp16"])
def test_the_kernels_compile_for_nvidia_gpus(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler refuses things that the interpreter takes. It needs no GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = loaded(monkeypatch, NAME, is_interpreted=False)
    x, block = {"x_N": f"*{kind}"}, {"BLOCK": kernels.BLOCK}
    counts = {"prefix_G": "*i64", "total_GK": "*i64", "group": "i32"}
    dtype = {"i32": torch.float32, "i16": torch.bfloat16, "fp16": torch.float16}[kind]
    for size in ({"size": "i32"}, {"size": "i64"}):
        for shift, width in fields([dtype]):
            assert machine_code(kernels._count_field, x | size | counts, block | {"SHIFT": shift, "WIDTH": width})


def test_the_kernels_of_sets_and_draws_compile_for_nvidia_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels, sets = (loaded(monkeypatch, name, is_interpreted=False) for name in (NAME, SETS))
    block = {"BLOCK": sets.BLOCK}
    for size, start in itertools.product(("i32", "i64"), repeat=2):
        assert machine_code(sets._count_set, {"set_M": "*u8", "count_P": f"*{start}", "size": size}, block)
        for word, kernel in itertools.product(("i8", "i16", "i32", "i64"), (sets._gather_set, sets._scatter_set)):
            types = {"x_N": f"*{word}", "set_M": "*u8", "start_P": f"*{start}", "x_K": f"*{word}", "size": size}
            assert machine_code(kernel, types, block)
        draw = {"out_N": "*i32", "size": size, "start": "i32", "key0": "i32", "key1": "i32"}
        assert machine_code(kernels._random_bits, draw, block)


@pytest.mark.parametrize("word", ["int32", "int16", "float16"])
def test_the_kernels_over_many_tensors_compile_for_nvidia_gpus(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    *_, bracket, of_entries = (
        loaded(monkeypatch, name, is_interpreted=False) for name in (NAME, TABLES, BRACKET, ENTRIES)
    )
    where = {"table_FT": "*i64", "piece_P": "*i64", "block_P": "*i64"}
    bounds = dict.fromkeys(("low_G", "high_G", "counts_GF", "start_G", "end_G"), "*i64") | {"out": "*i32"}
    words = {"int32": "*i32", "int16": "*i16", "float16": "*fp16"}
    for is_drawn, is_aligned in ((False, True), (False, False), (True, True)):
        kind = {"TYPE": getattr(triton.language, word), "IS_DRAWN": is_drawn, "IS_ALIGNED": is_aligned}
        pieces = where | {"num_pieces": "i32"}
        assert machine_code(bracket._write_samples, pieces | {"out": "*i32"}, kind | {"SLOTS": bracket.SLOTS})
        blocks = {"BLOCK": bracket.BLOCK, "BLOCKS": bracket.BLOCKS, "NEEDS_ZEROS": is_aligned}
        assert machine_code(bracket._split, pieces | bounds, kind | blocks)
        block = kind | {"BLOCK": of_entries.BLOCK}
        of_groups = pieces | {"lowest_G": "*i64", "highest_G": "*i64"}
        assert machine_code(of_entries._zero_outside, of_groups | {"hold": "*i64", "like": words[word]}, block)
        assert machine_code(of_entries._keep_inside, of_groups, block)
        if not is_drawn:
            assert machine_code(of_entries._restore_unkept, pieces, block)
    per_group = ("group_P", "block_P", "start_G", "end_G", "num_G", "prefix_G", "total_GK")
    types = {"out": "*i32", **dict.fromkeys(per_group, "*i64")}
    for shift, width in fields([torch.float32]):
        constants = {"SHIFT": shift, "WIDTH": width, "BLOCK": bracket.PART}
        assert machine_code(bracket._count_between, types, constants)


def machine_code(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> bytes:
    source = triton.compiler.ASTSource(kernel, {**types, **dict.fromkeys(constants, "constexpr")}, constants)
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    options = {"num_warps": 8, "enable_fp_fusion": False}
    code: bytes = triton.compile(source, target=target, options=options).asm["cubin"]
    return code

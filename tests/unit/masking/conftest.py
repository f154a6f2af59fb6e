"""The ways of counting, each of which must give the same, and a small model to mask."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import counting, entries, native, random_bits, select_alone, select_over_chunks, support


@pytest.fixture(params=["c", "torch"], scope="module")
def counted_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Counts with C, or with torch ops."""
    if request.param == "c":
        assert native.library() is not None, "these tests need a C compiler: one of cc, gcc, clang"
        yield "c"
        return
    patch = pytest.MonkeyPatch()
    for module in (counting, entries, random_bits, select_alone, select_over_chunks, support):
        patch.setattr(module, "library", lambda: None)
    yield "torch"
    patch.undo()


def model_and_batch() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(8, 6)

"""The ways of counting, each of which must give the same."""

from collections.abc import Iterator

import pytest

from gmt.masking import counting, entries, native, random_bits


@pytest.fixture(params=["c", "torch"], scope="module")
def counted_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Counts with C, or with torch ops."""
    if request.param == "c":
        assert native.library() is not None, "these tests need a C compiler: one of cc, gcc, clang"
        yield "c"
        return
    patch = pytest.MonkeyPatch()
    for module in (counting, entries, random_bits):
        patch.setattr(module, "library", lambda: None)
    yield "torch"
    patch.undo()

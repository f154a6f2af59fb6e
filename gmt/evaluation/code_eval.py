"""Stands in for the `code_eval` of lm-eval's code tasks, which is fetched from the hub and is no sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def code_runner(is_needed: bool, *, without_sandbox: bool) -> Iterator[None]:
    """Until the block ends."""
    yield

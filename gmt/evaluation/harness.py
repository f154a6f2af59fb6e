"""Benchmarks of lm-eval (EleutherAI's lm-evaluation-harness), asked of a model in memory."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.evaluation import harness_tasks
from gmt.evaluation.code_eval import code_runner
from gmt.evaluation.context import check_fits, check_tokens, token_ids
from gmt.tasks.protocol import EvaluationInputs, Reader, Score
from gmt.tasks.rows import Source
from gmt.tasks.turns import frame_of
from gmt.used_files import UsedFiles

_SHORTER = "set a smaller num_fewshot or max_new_tokens"
_RUNS_CODE = ("humaneval", "mbpp")  # prefixes of tasks that may run code; no other task may

_hub_files: dict[str, Mapping[str, UsedFiles]] = {}  # the files that this process has loaded, by lm-eval's task name


@dataclass(frozen=True, kw_only=True)
class HarnessBenchmark:
    """A task or group of lm-eval.

    Args:
        task: lm-eval's name, e.g. `gsm8k`.
        metric: lm-eval's name of the result that is the score, e.g. `exact_match,flexible-extract`.
        num_fewshot: examples before each question; null for lm-eval's default.
        num_examples: the number of questions to ask of each task, from its first on; null for all.
        max_new_tokens: the most tokens of an answer; null for lm-eval's default.
        data: a local folder laid out as the hub's dataset of a single task; null for the hub.
        batch_size: questions in a batch.
        run_untrusted_code_without_sandbox: whether to run code that the model writes although this machine has no
            sandbox (see gmt.evaluation.sandboxing.sandbox); matters for benchmarks that run code.

    Raises:
        UserError: lm-eval is not installed, or a setting is wrong. `check` finds unknown tasks and metrics.
    """

    task: str
    metric: str
    num_fewshot: int | None
    num_examples: int | None
    max_new_tokens: int | None
    data: str | None
    batch_size: int
    run_untrusted_code_without_sandbox: bool

    def __post_init__(self) -> None:
        settings.text("task", self.task)
        settings.text("metric", self.metric)
        if self.num_fewshot is not None:
            settings.integer("num_fewshot", self.num_fewshot, low=0)
        for name in ("num_examples", "max_new_tokens"):
            if getattr(self, name) is not None:
                settings.integer(name, getattr(self, name), low=1)
        settings.integer("batch_size", self.batch_size, low=1)
        settings.boolean("run_untrusted_code_without_sandbox", self.run_untrusted_code_without_sandbox)
        if util.find_spec("lm_eval") is None:
            raise UserError(f"benchmark {self.task} needs lm-eval: pip install 'gmt-lab[eval]'")
        if self.data is not None and not Path(os.path.expanduser(self.data)).is_dir():
            raise UserError(f"data must be null or a folder of this machine, got {self.data!r}, which is not a folder")

    @property
    def is_score(self) -> bool:
        """Whether the metric lies in [0, 1] and more is better; false for perplexities and bits per byte."""
        return not any(measure in self.metric for measure in ("perplexity", "bits_per_byte"))

    def fingerprint(self) -> str:
        """Return the harness's version, and a hash of local data."""
        local = "" if self.data is None else f" {self._source().fingerprint()}"
        return f"lm-eval=={_version()}{local}"

    def used_files(self) -> Mapping[str, UsedFiles]:
        """Return the files of the local data, or the hub's files that `check` has loaded; this loads nothing."""
        return _hub_files.get(self.task, {}) if self.data is None else {"data": self._source().used_files()}

    def check(self, reader: Reader) -> None:
        """Load the data; refuse an unknown task or metric, numbers beyond the data, and code without a sandbox.

        Prompts that do not fit the context are refused only when the base is evaluated, since lm-eval makes them then.
        """
        with self._code_runner():
            loaded = harness_tasks.load(self.task, self.data)
        with harness_tasks.explain_data_errors(self.task, self.data):
            harness_tasks.check_metric(self.task, self.metric, loaded)
            harness_tasks.check_numbers(self.task, self.num_fewshot, self.num_examples, loaded)
            if self.data is not None:
                harness_tasks.check_targets(self.data, loaded)
        _hub_files[self.task] = {} if self.data is not None else harness_tasks.used_files(loaded)

    def evaluate(self, inputs: EvaluationInputs) -> Score:
        """Return the score that lm-eval computes; answers that an earlier attempt stored are not generated again."""
        from lm_eval import simple_evaluate

        from gmt.evaluation.greedy import answer_ends, greedy  # transformers takes seconds

        self._check_batch(inputs)
        ends = answer_ends(inputs.model, inputs.tokenizer, frame_of(inputs.tokenizer, is_chat=inputs.is_chat))
        with self._code_runner(inputs), greedy(inputs.model, ends=ends, pad=inputs.tokenizer.pad_token_id):
            results = simple_evaluate(
                model=_in_memory(inputs, self.task, self.batch_size),
                tasks=[harness_tasks.task_to_load(self.task, self.data)],
                num_fewshot=self.num_fewshot,
                limit=self.num_examples,
                use_cache=str(inputs.scratch / "answers"),
                apply_chat_template=inputs.is_chat,
                gen_kwargs=None if self.max_new_tokens is None else {"max_gen_toks": self.max_new_tokens},
                task_manager=harness_tasks.manager(),
                bootstrap_iters=0,
                confirm_run_unsafe_code=self._runs_code,
                # None: lm-eval must not seed the random generators, which a training goes on to use
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
        rows = [
            row for name in sorted(results["samples"]) for row in _rows(name, results["samples"][name], self.metric)
        ]
        return Score(metric=self.metric.partition(",")[0], value=self._value(results), answers=rows)

    def _check_batch(self, inputs: EvaluationInputs) -> None:
        """Refuse batches for a model whose answers change with padding, since lm-eval pads its batches."""
        from gmt.evaluation.padding import sees_padding

        tokens, pad = token_ids(inputs, "One, two, three."), inputs.tokenizer.pad_token_id
        if self.batch_size > 1 and any(sees_padding(inputs.model, tokens, pad, left=left) for left in (True, False)):
            raise UserError(
                f"batch_size must be 1 for a model of type {inputs.model.config.model_type}, whose answers change with "
                f"the padding of a batch, got {self.batch_size}"
            )

    def _value(self, results: Mapping[str, Any]) -> float:
        """Return the metric of the task or group; for a tag, which lm-eval does not aggregate, the mean over tasks."""
        tasks = results["results"]
        aggregate = {**tasks, **results.get("groups", {})}.get(self.task)
        metrics = [aggregate] if aggregate is not None else [tasks[name] for name in results["samples"]]
        if any(self.metric not in values for values in metrics):
            known = [name for name, value in metrics[0].items() if isinstance(value, float) and "stderr" not in name]
            raise UserError(f"lm-eval's {self.task} has no metric {self.metric!r}; {choices(self.metric, known)}")
        return fmean(float(values[self.metric]) for values in metrics)

    @property
    def _runs_code(self) -> bool:
        return self.task.startswith(_RUNS_CODE)

    def _code_runner(self, inputs: EvaluationInputs | None = None) -> AbstractContextManager[None]:
        options: dict[str, Any] = {}
        if inputs is not None:
            number = count(1)
            options = {"cpus": inputs.cpus, "on_done": lambda: inputs.on_progress(done := next(number), done)}
        return code_runner(self._runs_code, without_sandbox=self.run_untrusted_code_without_sandbox, **options)

    def _source(self) -> Source:
        return Source(
            setting="data",
            path=str(Path(os.path.expanduser(str(self.data))).absolute()),
            subset=None,
            revision=None,
            split="test",
        )


@lru_cache(maxsize=1)
def _version() -> str:
    return metadata.version("lm-eval")


def _in_memory(inputs: EvaluationInputs, task: str, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import normalize_gen_kwargs

    from gmt.evaluation.greedy import answer_ends

    frame = frame_of(inputs.tokenizer, is_chat=inputs.is_chat)
    ends = answer_ends(inputs.model, inputs.tokenizer, frame)

    class InMemory(HFLM):  # type: ignore[misc]
        """Report progress at each batch, refuse prompts that do not fit the context instead of cutting them, and end
        an answer where the chat template ends a turn."""

        num_done = 0

        def generate_until(self, requests: Any, *args: Any, **options: Any) -> Any:
            for prompt, kwargs in (request.args for request in requests):
                longest = self.max_length - normalize_gen_kwargs(dict(kwargs), self.max_gen_toks)["max_gen_toks"]
                ids = self.tok_encode(prompt)
                check_fits(task, len(ids), longest, _SHORTER)
                check_tokens(f"a token of {task}'s prompts", ids, inputs.num_embeddings)
            return super().generate_until(requests, *args, **options)

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
            for _, prompt, continuation in requests:
                check_fits(task, len(prompt) + len(continuation) - 1, self.max_length, _SHORTER)
                check_tokens(f"a token of {task}'s prompts", [*prompt, *continuation], inputs.num_embeddings)
            return super()._loglikelihood_tokens(requests, *args, **options)

        def _report(self, size: int) -> None:
            self.num_done += size
            inputs.on_progress(self.num_done, self.num_done)

        def _model_call(self, inps: Any, *args: Any, **options: Any) -> Any:
            answer = super()._model_call(inps, *args, **options)
            self._report(len(inps))
            return answer

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
            stop = [*stop, frame.stop_text] if frame.stop_text else stop
            longest = min(max_length + frame.num_tokens, self.max_length)
            answer = super()._model_generate(context, longest, stop, **options)
            self._report(len(context))
            return answer

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            if inputs.is_chat and skip_special_tokens:  # lm-eval decodes an answer
                return frame.answer_in(self.tokenizer, tokens, ends)
            return super().tok_decode(tokens, skip_special_tokens)

    # HFLM changes the padding side of the tokenizer, which the training uses too; so it gets a copy.
    return InMemory(
        pretrained=inputs.model,
        tokenizer=copy.deepcopy(inputs.tokenizer),
        add_bos_token=False if inputs.is_chat else None,  # a chat template adds the token itself
        batch_size=batch_size,
        max_length=inputs.context,
    )


def _rows(task: str, samples: list[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Return a row for each question; if lm-eval applies several filters, the rows of the metric's filter."""
    name, _, filter_name = metric.partition(",")
    return [
        {
            "task": task,
            "prompt": str(sample["arguments"][0][0]),
            "answer": _shown(sample["filtered_resps"]),
            "score": float(sample[name]) if isinstance(sample.get(name), bool | int | float) else None,
            "said": _shown(sample["resps"]),
            "expected": _shown(sample["target"]),
        }
        for sample in samples
        if sample.get("filter", filter_name) == filter_name
    ]


def _shown(value: Any) -> str:
    """Return a value as text, unpacked from nested lists with one item."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return str(value)

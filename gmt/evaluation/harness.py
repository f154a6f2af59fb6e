"""Benchmarks of lm-eval (EleutherAI's lm-evaluation-harness) with the model in memory."""

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
from gmt.tasks.protocol import Asked, Reader, Score
from gmt.tasks.rows import Source
from gmt.tasks.turns import frame_of
from gmt.used_files import UsedFiles

_SHORTER = "with fewer examples (num_fewshot) or for a shorter one (max_new_tokens)"
_RUNS_CODE = ("humaneval", "mbpp")  # a list of names: another task that wants to run code may not

_of_hub: dict[str, Mapping[str, UsedFiles]] = {}  # by lm-eval's name, as this process has loaded them


@dataclass(frozen=True, kw_only=True)
class HarnessBenchmark:
    """A task or group of lm-eval.

    Args:
        task: lm-eval's name, e.g. `gsm8k`.
        metric: what of its results is the score, as lm-eval names it, e.g. `exact_match,flexible-extract`.
        num_fewshot: examples before each question; null for lm-eval's own number.
        num_examples: of each task the first so many; null for all.
        max_new_tokens: how many tokens an answer may take; null for lm-eval's own number.
        data: a local folder laid out as the hub's dataset of a single task; null for the hub.
        batch_size: questions at once.
        run_untrusted_code_without_sandbox: whether code that the model writes is run although this machine has no
            sandbox (see gmt.evaluation.sandboxing.sandbox); only where the benchmark runs code.

    Raises:
        UserError: lm-eval is not installed, or a setting is wrong. An unknown task or metric is found by `check`.
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
            raise UserError(f"data must be null or a folder of this machine, got {self.data!r}, which is none")

    @property
    def is_score(self) -> bool:
        """Perplexities are not."""
        return "perplexity" not in self.metric

    def fingerprint(self) -> str:
        """The harness's version, and local data."""
        local = "" if self.data is None else f" {self._source().fingerprint()}"
        return f"lm-eval=={_version()}{local}"

    def used_files(self) -> Mapping[str, UsedFiles]:
        """The files of the local data, or those of the hub that `check` has loaded: loading takes minutes."""
        return _of_hub.get(self.task, {}) if self.data is None else {"data": self._source().used_files()}

    def check(self, reader: Reader) -> None:
        """Loads the data; refuses an unknown task or metric, numbers beyond the data, and code without a sandbox.

        Prompts that do not fit the context are refused when the base is asked: lm-eval makes them then.
        """
        with self._code_runner():
            loaded = harness_tasks.load(self.task, self.data)
        with harness_tasks.data_or_sentence(self.task, self.data):
            harness_tasks.check_metric(self.task, self.metric, loaded)
            harness_tasks.check_numbers(self.task, self.num_fewshot, self.num_examples, loaded)
            if self.data is not None:
                harness_tasks.check_targets(self.data, loaded)
        _of_hub[self.task] = {} if self.data is not None else harness_tasks.used_files(loaded)

    def evaluate(self, asked: Asked) -> Score:
        """Asks by lm-eval; an answer that was given before a kill is not asked for again."""
        from lm_eval import simple_evaluate

        from gmt.evaluation.greedy import answer_ends, greedy  # transformers takes seconds

        self._check_batch(asked)
        ends = answer_ends(asked.model, asked.tokenizer, frame_of(asked.tokenizer, is_chat=asked.is_chat))
        with self._code_runner(asked), greedy(asked.model, ends=ends, pad=asked.tokenizer.pad_token_id):
            results = simple_evaluate(
                model=_in_memory(asked, self.task, self.batch_size),
                tasks=[harness_tasks.named(self.task, self.data)],
                num_fewshot=self.num_fewshot,
                limit=self.num_examples,
                use_cache=str(asked.scratch / "answers"),
                apply_chat_template=asked.is_chat,
                gen_kwargs=None if self.max_new_tokens is None else {"max_gen_toks": self.max_new_tokens},
                task_manager=harness_tasks.manager(),
                bootstrap_iters=0,
                confirm_run_unsafe_code=self._runs_code,
                # None leaves the generators alone, which a training goes on with
                random_seed=None,
                numpy_random_seed=None,
                torch_random_seed=None,
            )
        rows = [
            row for name in sorted(results["samples"]) for row in _rows(name, results["samples"][name], self.metric)
        ]
        return Score(metric=self.metric.partition(",")[0], value=self._value(results), answers=rows)

    def _check_batch(self, asked: Asked) -> None:
        """lm-eval pads its batches, which most models pass over."""
        from gmt.evaluation.padding import sees_padding

        tokens, pad = token_ids(asked, "One, two, three."), asked.tokenizer.pad_token_id
        if self.batch_size > 1 and any(sees_padding(asked.model, tokens, pad, left=left) for left in (True, False)):
            raise UserError(
                f"batch_size must be 1 for a model of type {asked.model.config.model_type}, whose answers change with "
                f"the padding of a batch, got {self.batch_size}"
            )

    def _value(self, results: Mapping[str, Any]) -> float:
        """The metric of the task or group; of a tag, which lm-eval does not sum up, the mean over its tasks."""
        tasks = results["results"]
        found = {**tasks, **results.get("groups", {})}.get(self.task)
        each = [found] if found is not None else [tasks[name] for name in results["samples"]]
        if any(self.metric not in measured for measured in each):
            known = [name for name, value in each[0].items() if isinstance(value, float) and "stderr" not in name]
            raise UserError(f"lm-eval's {self.task} has no metric {self.metric!r}; {choices(self.metric, known)}")
        return fmean(float(measured[self.metric]) for measured in each)

    @property
    def _runs_code(self) -> bool:
        return self.task.startswith(_RUNS_CODE)

    def _code_runner(self, asked: Asked | None = None) -> AbstractContextManager[None]:
        more: dict[str, Any] = {}
        if asked is not None:
            number = count(1)
            more = {"cpus": asked.cpus, "on_done": lambda: asked.on_progress(done := next(number), done)}
        return code_runner(self._runs_code, without_sandbox=self.run_untrusted_code_without_sandbox, **more)

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


def _in_memory(asked: Asked, task: str, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import normalize_gen_kwargs

    from gmt.evaluation.greedy import answer_ends

    frame = frame_of(asked.tokenizer, is_chat=asked.is_chat)
    ends = answer_ends(asked.model, asked.tokenizer, frame)

    class InMemory(HFLM):  # type: ignore[misc]
        """Tells of progress at each batch, refuses what does not fit the context instead of cutting it, and ends an
        answer where the chat template ends a turn."""

        num_done = 0

        def generate_until(self, requests: Any, *more: Any, **how: Any) -> Any:
            for prompt, kwargs in (request.args for request in requests):
                longest = self.max_length - normalize_gen_kwargs(dict(kwargs), self.max_gen_toks)["max_gen_toks"]
                ids = self.tok_encode(prompt)
                check_fits(task, len(ids), longest, _SHORTER)
                check_tokens(f"a token of {task}'s prompts", ids, asked.num_embeddings)
            return super().generate_until(requests, *more, **how)

        def _loglikelihood_tokens(self, requests: Any, *more: Any, **how: Any) -> Any:
            for _, prompt, continuation in requests:
                check_fits(task, len(prompt) + len(continuation) - 1, self.max_length, _SHORTER)
                check_tokens(f"a token of {task}'s prompts", [*prompt, *continuation], asked.num_embeddings)
            return super()._loglikelihood_tokens(requests, *more, **how)

        def _told(self, size: int) -> None:
            self.num_done += size
            asked.on_progress(self.num_done, self.num_done)

        def _model_call(self, inps: Any, *more: Any, **how: Any) -> Any:
            answer = super()._model_call(inps, *more, **how)
            self._told(len(inps))
            return answer

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **how: Any) -> Any:
            stop = [*stop, frame.stop_text] if frame.stop_text else stop
            longest = min(max_length + frame.num_tokens, self.max_length)
            answer = super()._model_generate(context, longest, stop, **how)
            self._told(len(context))
            return answer

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            if asked.is_chat and skip_special_tokens:  # an answer
                return frame.answer_in(self.tokenizer, tokens, ends)
            return super().tok_decode(tokens, skip_special_tokens)

    # It changes the tokenizer's padding side, which the training has to find as it was.
    return InMemory(
        pretrained=asked.model,
        tokenizer=copy.deepcopy(asked.tokenizer),
        add_bos_token=False if asked.is_chat else None,  # a template puts one where the model is to see one
        batch_size=batch_size,
        max_length=asked.context,
    )


def _rows(task: str, samples: list[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """One row for each question; where lm-eval filters answers in several ways, those that the metric is of."""
    name, _, kind = metric.partition(",")
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
        if sample.get("filter", kind) == kind
    ]


def _shown(value: Any) -> str:
    """The text in what may be nested lists of one."""
    while isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return str(value)

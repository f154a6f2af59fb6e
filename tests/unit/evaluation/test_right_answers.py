"""Loss and divergence at the right answers, against numbers computed token by token."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gmt.errors import Interrupted, UserError
from gmt.evaluation.right_answers import RightAnswers
from gmt.tasks.protocol import EvaluationInputs, Reader, Score, Suite
from tests.models import pretrained

SUMS = {"Calculate 1 + 2.\n": "3", "Calculate 27 + 45.\n": "72"}
FLOAT32 = 1e-5  # logits of some 10, in float32
WORDS = {"Spell this word backward (example: sun -> nus): lamp\n": "pmal"}


def suite_of(questions: dict[str, str]) -> Suite:
    prompts, answers = list(questions), list(questions.values())
    return Suite(name="s", prompts=prompts, score=lambda i, text: 0.0, max_new_tokens=4, answers=answers)


def no_progress(*_: int) -> None:
    pass


def moved() -> Any:
    """Return nano after a change of its weights."""
    model = pretrained().load_model()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model.eval()  # type: ignore[no-untyped-call]


def evaluation_inputs(scratch: Path, model: Any, **changes: Any) -> EvaluationInputs:
    known: dict[str, Any] = {"tokenizer": pretrained().load_tokenizer(), "context": 128, "num_embeddings": 256}
    known |= {"is_chat": False, "cpus": 1, "on_progress": no_progress, "base": lambda: pretrained().load_model().eval()}
    suites = {"sums": suite_of(SUMS), "words": suite_of(WORDS)}
    return EvaluationInputs(**known | {"suites": suites, "model": model, "scratch": scratch} | changes)


def measured(scratch: Path, measure: str, model: Any, **changes: Any) -> Score:
    settings: dict[str, Any] = {"measure": measure, "suites": None, "batch_size": 64}
    return RightAnswers(**settings).evaluate(evaluation_inputs(scratch, model, **changes))


def log_probabilities(model: Any, prompt: str, answer: str) -> tuple[torch.Tensor, list[int]]:
    """Return the log-probabilities at each token of an answer and its end, and these tokens."""
    tokenizer: Any = pretrained().load_tokenizer()
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([before + after])).logits[0]
    return logits[len(before) - 1 : -1].double().log_softmax(-1), after


def test_the_loss_is_that_of_each_token_of_the_answers_and_their_ends(tmp_path: Path) -> None:
    model, by_suite = moved(), []
    for questions in (SUMS, WORDS):
        losses: list[float] = []
        for prompt, answer in questions.items():
            logs, tokens = log_probabilities(model, prompt, answer)
            losses += [-float(logs[i, token]) for i, token in enumerate(tokens)]
        by_suite.append(sum(losses) / len(losses))
    score = measured(tmp_path, "nll", model)
    assert (score.metric, score.value) == ("nll", pytest.approx(sum(by_suite) / 2, abs=FLOAT32))
    assert [row["of"] for row in score.answers] == ["sums", "sums", "words"]
    logs, tokens = log_probabilities(model, "Calculate 1 + 2.\n", "3")
    assert score.answers[0]["num_tokens"] == len(tokens) == 2
    assert score.answers[0]["score"] == pytest.approx(-float(logs[0, tokens[0]] + logs[1, tokens[1]]) / 2, abs=FLOAT32)


def test_the_divergence_is_that_of_the_base_from_the_model_and_zero_for_the_base_itself(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    model, base = moved(), pretrained().load_model()
    assert measured(tmp_path / "base", "kl", base).value == pytest.approx(0, abs=1e-6)
    prompt, answer = next(iter(WORDS.items()))
    ours, theirs = (log_probabilities(each, prompt, answer)[0] for each in (model, base))
    by_hand = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    score = measured(tmp_path, "kl", model, suites={"words": suite_of(WORDS)})
    assert score.value == pytest.approx(float(by_hand), abs=FLOAT32)
    assert score.value > 0.01


def test_questions_that_were_read_before_a_kill_are_not_read_again(tmp_path: Path) -> None:
    def stop(*_: int) -> None:
        raise Interrupted("enough")

    def refuse() -> Any:
        raise AssertionError("the base is not needed")

    (tmp_path / "whole").mkdir()
    whole = measured(tmp_path / "whole", "kl", moved())
    with pytest.raises(Interrupted):
        measured(tmp_path, "kl", moved(), on_progress=stop)
    assert measured(tmp_path, "kl", moved(), base=refuse) == whole  # one batch held all


@pytest.mark.parametrize(
    ("changes", "suites", "sentence"),
    [
        (
            {"suites": ["sum"]},
            {"sums": suite_of(SUMS)},
            "suites must name suites of the same part, got 'sum'; did you mean 'sums'",
        ),
        ({}, {}, "the same part must have a suite with right answers, got none"),
        (
            {"suites": ["a"]},
            {"a": Suite(name="a", prompts=["x"], score=lambda *_: 0.0, max_new_tokens=1), "b": suite_of(SUMS)},
            "suites must name suites whose right answers are known, got 'a'",
        ),
        ({}, {"a": suite_of({"Calculate 1 + 2.\n": "3" * 200})}, "a question with its right answer has .* tokens"),
    ],
)
def test_what_can_not_be_read_is_refused(changes: Any, suites: Any, sentence: str) -> None:
    reader = Reader(
        tokenizer=pretrained().load_tokenizer(), context=128, num_embeddings=256, is_chat=False, suites=suites
    )
    with pytest.raises(UserError, match=sentence):
        RightAnswers(**{"measure": "nll", "suites": None, "batch_size": 2} | changes).check(reader)


def test_settings_out_of_their_range_are_refused() -> None:
    for changes in ({"measure": "loss"}, {"batch_size": 0}, {"suites": "sums"}, {"suites": []}):
        with pytest.raises(UserError):
            RightAnswers(**{"measure": "nll", "suites": None, "batch_size": 2} | changes)


def test_a_loss_is_finite_where_an_answer_is_unlikely(tmp_path: Path) -> None:
    score = measured(tmp_path, "nll", moved(), suites={"a": suite_of({"Calculate 1 + 2.\n": "~~~~"})})
    assert math.isfinite(score.value)
    assert score.value > 5

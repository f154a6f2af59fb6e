"""Questions are answered in batches, and a batch that was answered before a kill is not asked again."""

from pathlib import Path

import pytest

from gmt.errors import Interrupted
from gmt.evaluation import suites
from gmt.tasks.protocol import EvaluationInputs, Suite
from tests.models import pretrained

PROMPTS = [f"Calculate {i} + 1.\n" for i in (1, 22, 3, 4, 555)]


class Stopped:
    """Ends the asking once so many answers are there."""

    def __init__(self, after: int):
        self.after, self.seen = after, [0]

    def __call__(self, num_done: int, num_all: int) -> None:
        assert num_all == len(PROMPTS)
        self.seen.append(num_done)
        if num_done >= self.after:
            raise Interrupted("enough")


def evaluation_inputs(scratch: Path, on_progress: Stopped) -> EvaluationInputs:
    model = pretrained()
    return EvaluationInputs(
        model=model.load_model(),
        tokenizer=model.load_tokenizer(),
        context=128,
        num_embeddings=256,
        is_chat=False,
        cpus=1,
        scratch=scratch,
        on_progress=on_progress,
    )


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr(suites, "BATCH_SIZE", 2)
    return Suite(name="sums", prompts=PROMPTS, score=lambda i, text: float(text == str(i)), max_new_tokens=4)


def test_answers_before_a_kill_are_kept(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = suites.ask(suite, evaluation_inputs(tmp_path / "whole", Stopped(99)))
    with pytest.raises(Interrupted):
        suites.ask(suite, evaluation_inputs(tmp_path, Stopped(2)))
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('[3, "ans')  # what a kill cuts short
    again = Stopped(99)
    assert suites.ask(suite, evaluation_inputs(tmp_path, again)) == whole
    assert min(again.seen[1:]) == 2
    assert suites.ask(suite, evaluation_inputs(tmp_path, Stopped(0))) == whole  # nothing is left to ask


def test_a_batch_is_left_within_a_token(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        suites.ask(suite, evaluation_inputs(tmp_path, Stopped(0)))
    assert not (tmp_path / "answers.jsonl").exists()

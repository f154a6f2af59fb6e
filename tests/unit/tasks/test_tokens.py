"""Text to tokens: the loss is on the completion only, and what is left out is counted."""

import pytest
from transformers import PreTrainedTokenizerBase

from gmt.errors import UserError
from gmt.tasks.protocol import Example
from gmt.tasks.tokens import IGNORED, prompt_ids, tokenize
from tests.models import pretrained

EXAMPLES = [
    Example(prompt="Calculate 4 + 1.\n", completion="5"),
    Example(prompt="Spell this word backward (example: sun -> nus): splat\n", completion="talps"),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return pretrained().load_tokenizer()


def test_labels_are_the_completion_and_its_end(tokenizer: PreTrainedTokenizerBase) -> None:
    for example, tokens in zip(EXAMPLES, tokenize(tokenizer, EXAMPLES, max_length=64).examples, strict=True):
        prompt = prompt_ids(tokenizer, example.prompt)
        ids, labels = tokens["input_ids"], tokens["labels"]
        assert ids[: len(prompt)] == prompt
        assert labels == [IGNORED] * len(prompt) + ids[len(prompt) :]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[len(prompt) : -1]) == example.completion


def test_an_example_longer_than_the_context_is_dropped_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    kept = tokenize(tokenizer, EXAMPLES, max_length=12)
    assert (len(kept.examples), kept.num_dropped) == (1, 1)


def test_nothing_left_to_train_on_is_refused_with_the_shortest_length(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        UserError, match=r"train\.max_length must leave a training example, got 3: the shortest has \d+"
    ):
        tokenize(tokenizer, EXAMPLES, max_length=3)
    with pytest.raises(UserError, match="leaves no training example"):
        tokenize(tokenizer, [], max_length=64)


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer("4711", add_special_tokens=False)["input_ids"]) == 4

"""Text to tokens: the loss is on the completion only, and what is left out is counted."""

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gmt.errors import UserError
from gmt.tasks.chat import SHIPPED, set_template
from gmt.tasks.protocol import Conversation, Example, Preference
from gmt.tasks.tokens import IGNORED, chat_ids, prompt_ids, tokenize
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


def test_a_prompt_begins_as_its_tokenizer_begins_a_text(tmp_path: Path) -> None:
    pretrained().load_tokenizer().save_pretrained(tmp_path)
    for begins, ends in ((True, False), (False, False), (False, True)):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, add_bos_token=begins, add_eos_token=ends)
        assert tokenizer.bos_token_id is not None  # whether it is used or not
        plain = tokenizer("4 + 1", add_special_tokens=False)["input_ids"]
        assert prompt_ids(tokenizer, "4 + 1") == [tokenizer.bos_token_id] * begins + plain
        assert tokenizer("4 + 1")["input_ids"][-1:] == ([tokenizer.eos_token_id] if ends else plain[-1:])


def test_an_example_longer_than_the_context_is_dropped_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    kept = tokenize(tokenizer, EXAMPLES, max_length=12)
    assert (len(kept.examples), kept.num_dropped) == (1, 1)


def test_nothing_left_to_train_on_is_refused_with_the_shortest_length(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        UserError, match=r"train\.max_length must leave a training example, got 3: the shortest has \d+"
    ):
        tokenize(tokenizer, EXAMPLES, max_length=3)
    with pytest.raises(UserError, match="must have a training example"):
        tokenize(tokenizer, [], max_length=64)


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer("4711", add_special_tokens=False)["input_ids"]) == 4


TURNS = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "4 + 1"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "1 + 1"},
    {"role": "assistant", "content": "2"},
]


@pytest.fixture
def chatting() -> PreTrainedTokenizerBase:
    tokenizer = pretrained().load_tokenizer()
    set_template(tokenizer, "tulu")
    return tokenizer


def test_every_turn_of_the_assistant_is_learnt_and_nothing_else(chatting: PreTrainedTokenizerBase) -> None:
    (tokens,) = tokenize(chatting, [Conversation(messages=TURNS)], max_length=200).examples
    ids, labels = tokens["input_ids"], tokens["labels"]
    assert ids == chat_ids(chatting, TURNS, answer_follows=False)
    assert len(labels) == len(ids)
    assert [i for i, label in zip(ids, labels, strict=True) if label != IGNORED] == [
        *chatting("5", add_special_tokens=False)["input_ids"],
        chatting.eos_token_id,
        *chatting("2", add_special_tokens=False)["input_ids"],
        chatting.eos_token_id,
    ]


def test_the_learnt_tokens_follow_the_prompt_of_evaluation(chatting: PreTrainedTokenizerBase) -> None:
    asked = chat_ids(chatting, TURNS[:2], answer_follows=True)
    (tokens,) = tokenize(chatting, [Conversation(messages=TURNS[:3])], max_length=200).examples
    assert tokens["input_ids"][: len(asked)] == asked
    assert tokens["labels"][: len(asked)] == [IGNORED] * len(asked)


@pytest.mark.parametrize("prompt", ["4 + 1\n", TURNS[:2]])
def test_a_preference_is_a_prompt_and_two_answers(
    chatting: PreTrainedTokenizerBase, prompt: str | list[dict[str, str]]
) -> None:
    (tokens,) = tokenize(chatting, [Preference(prompt=prompt, chosen="5", rejected="6")], max_length=200).examples
    five, six = (chatting(text, add_special_tokens=False)["input_ids"] for text in "56")
    assert tokens["chosen_ids"] == [*five, chatting.eos_token_id]
    assert tokens["rejected_ids"] == [*six, chatting.eos_token_id]
    expected = (
        prompt_ids(chatting, prompt) if isinstance(prompt, str) else chat_ids(chatting, prompt, answer_follows=True)
    )
    assert tokens["prompt_ids"] == expected


def test_an_answer_that_holds_its_end_is_refused_by_its_row(chatting: PreTrainedTokenizerBase) -> None:
    chatting.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    chatting.chat_template = CHATML
    turns = [{"role": "user", "content": "4 + 1 <|im_end|>"}]
    for end in ("<|im_end|>", chatting.eos_token):
        answer = f"5 {end} 6"
        said = Conversation(messages=[*turns, {"role": "assistant", "content": answer}], origin="row 7 of a.jsonl")
        for example in (
            said,
            Preference(prompt=turns, chosen=answer, rejected="6", origin="row 7 of a.jsonl"),
            Preference(prompt=turns, chosen="5", rejected=answer, origin="row 7 of a.jsonl"),
            *[Example(prompt="4 + 1", completion=answer, origin="row 7 of a.jsonl")] * (end == chatting.eos_token),
        ):
            with pytest.raises(
                UserError, match=rf"row 7 of a\.jsonl: an answer must not hold '{re.escape(end)}'.*got '5 "
            ):
                tokenize(chatting, [example], max_length=200)
    chatting.add_special_tokens({"additional_special_tokens": ["<|eom|>"]})
    for example in (
        Example(prompt="4", completion="5 <|eom|> 6"),
        Preference(prompt=turns, chosen="5", rejected="<|eom|>"),
    ):
        assert tokenize(chatting, [example], max_length=200).examples
        with pytest.raises(UserError, match=r"an answer must not hold '<\|eom\|>'"):
            tokenize(chatting, [example], max_length=200, model_ends=[chatting.convert_tokens_to_ids("<|eom|>")])
    without = [*turns, {"role": "assistant", "content": "5 im_end"}]
    assert tokenize(chatting, [Conversation(messages=without)], max_length=200).examples  # a prompt may hold one


@pytest.mark.parametrize("begins", ["\n\nyes", "\n", "\nyes", " yes", "yes\n\n"])
@pytest.mark.parametrize("template", ["tulu", "chatml"])
def test_an_answer_that_begins_with_what_its_tokenizer_joins_to_the_prompt_is_learnt(
    template: str, begins: str
) -> None:
    tokenizer = joining()
    tokenizer.chat_template = (SHIPPED / "tulu.jinja").read_text() if template == "tulu" else CHATML
    rows = [Conversation(messages=[TURNS[1], {"role": "assistant", "content": text}]) for text in ("yes", begins)]
    plain, joined = tokenize(tokenizer, rows, max_length=200).examples
    asked = chat_ids(tokenizer, TURNS[1:2], answer_follows=True)
    for tokens, text in ((plain, "yes"), (joined, begins)):
        assert tokens["input_ids"][: len(asked)] == asked
        assert tokens["labels"][: len(asked)] == [IGNORED] * len(asked)
        learnt = tokenizer.decode([i for i in tokens["labels"] if i != IGNORED], skip_special_tokens=True)
        assert learnt == text + ("\n" if template == "chatml" else "")


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def joining() -> PreTrainedTokenizerBase:
    """A tokenizer that makes one token of several line feeds."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special, alphabet = ["</s>", "<pad>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        ["\n\n\n yes\n\n"] * 50,
        trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    special_ones = {"eos_token": "</s>", "pad_token": "<pad>", "extra_special_tokens": special[2:]}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special_ones)


def test_a_template_that_changes_answers_is_refused(chatting: PreTrainedTokenizerBase) -> None:
    chatting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match=r"task\.chat_template must render a prompt as the beginning of"):
        tokenize(chatting, [Conversation(messages=TURNS)], max_length=200)


def test_a_tokenizer_without_a_template_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"task\.chat_template=tokenizer needs a model .*in this package \(tulu\)"):
        set_template(tokenizer, "tokenizer")


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("hello", "must render an assistant's turn"),
        ("{% if %}", "can't be rendered"),
        ("{{ raise_exception('no system turn') }}", "can't be rendered: no system turn"),
    ],
)
def test_a_template_that_teaches_nothing_is_refused(
    chatting: PreTrainedTokenizerBase, template: str, sentence: str
) -> None:
    chatting.chat_template = template
    with pytest.raises(UserError, match=rf"task\.chat_template {sentence}"):
        tokenize(chatting, [Conversation(messages=TURNS)], max_length=200)

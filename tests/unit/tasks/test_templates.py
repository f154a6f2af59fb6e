"""Every chat template: a model that says exactly what it was taught is right in every answer.

Templates are all that TRL ships, those of the families in conf/model (tests/data/templates), and tulu. Each is tried
with a tokenizer that has the template's markers as tokens (instruct), and with one that cuts them up (base).
"""

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

from gmt.errors import UserError
from gmt.evaluation.context import token_ids
from gmt.evaluation.suites import ask
from gmt.tasks.chat import SHIPPED, set_template
from gmt.tasks.protocol import Conversation, EvaluationInputs, Example, Preference, Suite
from gmt.tasks.tokens import IGNORED, tokenize
from gmt.tasks.turns import chat_text, frame_of
from tests.unit.tasks.test_dataset import held_out, write

pytestmark = pytest.mark.heavy

OWN = Path(__file__).parents[2] / "data" / "templates"
FILES = {
    f.stem: f for folder in (Path(trl.__file__).parent / "chat_templates", OWN, SHIPPED) for f in folder.glob("*.jinja")
}
# Their generation prompt begins to think where an answer of the data has no thinking.
THINKS = {name for name in FILES if name.startswith(("deepseek_r1", "deepseekv3", "nemotron_3"))}
# Of models that see pictures: they want a turn's content as a list of parts, and lose a text.
OF_PARTS = {name for name in FILES if name.startswith(("idefics3", "smolvlm", "llava_next"))}
ANSWERABLE = sorted(FILES.keys() - THINKS - OF_PARTS)
KINDS = ("instruct", "base")
# TRL's templates for training, and later editions of a template, seldom differ from it in what matters here.
CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] * bool(re.search(r"_training$|_v\d$|3_[12568]|_vl$", name)))
    for name in ANSWERABLE
    for kind in KINDS
]
ANSWERS = [
    "4",
    "It is 4 .",
    "\n\nyes",
    "a\n\nb\n",
    " - 1\n - 2",
    "def f():\n    return 4",
    "don 't",
    "größer: ≥ 4",
    "<b>4</b>",
    "4<",
    "a <s> b",
    "<s>4",
    "4 <pad>",
]
QUESTIONS = [f"question {i}" for i in range(len(ANSWERS))]


def tokenizer_with(markers: list[str], eos: str) -> PreTrainedTokenizerBase:
    """Bytes, joined to tokens for line feeds and for what stands around them in templates."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [*dict.fromkeys(["<pad>", "<s>", "</s>", eos, *markers])]
    texts = ["\n\n\n yes 4 .\n\n", "assistant\n\n", ">\n\n", "4<|"] * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        texts, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<s>", eos_token=eos, pad_token="<pad>")


def markers_of(name: str) -> list[str]:
    found = re.findall(r"<[^<>\s'\"{}]{2,30}>|\[/?INST\]", FILES[name].read_text(encoding="utf-8"))
    return list(dict.fromkeys(found))


def tokenizer_for(name: str, kind: str = "instruct") -> PreTrainedTokenizerBase:
    """Of an instruct model, whose markers are tokens, or of a base, which has none of them."""
    return tokenizer_with(markers_of(name), "</s>") if kind == "instruct" else tokenizer_with([], "<|endoftext|>")


class Pupil(LlamaForCausalLM):
    """Says what it was taught to prompts that it knows, token by token; else, and afterwards, the letter `?`."""

    def teach(self, pairs: list[tuple[list[int], list[int]]], other: int) -> "Pupil":
        self.pairs, self.other, self.num_calls = pairs, other, 0
        return self

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, **_: Any
    ) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return {"input_ids": input_ids, "attention_mask": mask}  # all of them at each step, without a cache

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> CausalLMOutput:
        self.num_calls += 1
        logits = torch.zeros(len(input_ids), 1, self.config.vocab_size)  # only the last position is looked at
        for row, (ids, seen) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
            known = [token for token, is_seen in zip(ids, seen, strict=True) if is_seen]
            logits[row, -1, self._next(known)] = 1
        return CausalLMOutput(logits=logits)

    def _next(self, known: list[int]) -> int:
        for prompt, answer in self.pairs:
            if known[: len(prompt)] == prompt and known[len(prompt) :] == answer[: len(known) - len(prompt)]:
                return [*answer, self.other][len(known) - len(prompt)]
        return self.other


def pupil(tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[list[int], list[int]]]) -> Pupil:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes)
    config.bos_token_id = config.eos_token_id = None
    return Pupil(config).teach(pairs, tokenizer.convert_tokens_to_ids("?"))


def evaluation_inputs(
    tokenizer: PreTrainedTokenizerBase, model: Any, scratch: Path, *, is_chat: bool = True
) -> EvaluationInputs:
    more = {"context": 10_000, "num_embeddings": 10**6, "on_progress": lambda *_: None}
    return EvaluationInputs(tokenizer=tokenizer, is_chat=is_chat, model=model, cpus=1, scratch=scratch, **more)


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def lesson(name: str, kind: str, scratch: Path) -> tuple[PreTrainedTokenizerBase, list[tuple[list[int], list[int]]]]:
    """The template's tokenizer, and for each answer the tokens of its prompt and those that are learnt."""
    tokenizer = tokenizer_for(name, kind)
    set_template(tokenizer, str(FILES[name]))
    taught = [Conversation(messages=turns(q, a)) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    reader, pairs = evaluation_inputs(tokenizer, None, scratch), []
    for question, example in zip(QUESTIONS, tokenize(tokenizer, taught, max_length=10**6).examples, strict=True):
        prompt, ids, labels = token_ids(reader, question), example["input_ids"], example["labels"]
        assert ids[: len(prompt)] == prompt  # as evaluation asks, to the token
        assert labels == [IGNORED] * len(prompt) + ids[len(prompt) :]
        pairs.append((prompt, ids[len(prompt) :]))
    return tokenizer, pairs


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_model_that_gives_the_learnt_answers_is_right(name: str, kind: str, tmp_path: Path) -> None:
    tokenizer, pairs = lesson(name, kind, tmp_path)
    frame = frame_of(tokenizer, is_chat=True)
    if frame.end is not None:
        assert all(frame.end in answer for _, answer in pairs)
    said: list[str] = []

    def score(index: int, text: str) -> float:
        said.append(text)
        return float(text == ANSWERS[index].strip())

    model = pupil(tokenizer, pairs)
    tight = Suite(name="s", prompts=["question 0"], score=lambda _, text: text == ANSWERS[0], max_new_tokens=1)
    (tmp_path / "tight").mkdir()
    tight_inputs = evaluation_inputs(tokenizer, model, tmp_path / "tight")
    assert ask(tight, tight_inputs).value == 1  # its frame takes no room of the answer's
    suite = Suite(name="s", prompts=QUESTIONS, score=score, max_new_tokens=100, answers=ANSWERS)
    model.num_calls = 0
    assert ask(suite, evaluation_inputs(tokenizer, model, tmp_path)).value == 1, said
    assert model.num_calls <= max(len(answer) for _, answer in pairs)  # it stops where the answer ends


@pytest.mark.parametrize("name", ANSWERABLE)
def test_an_answer_that_holds_the_text_at_which_it_is_cut_is_refused_by_its_row(name: str) -> None:
    tokenizer = tokenizer_for(name, "base")
    set_template(tokenizer, str(FILES[name]))
    frame = frame_of(tokenizer, is_chat=True)
    if cut := frame.after.strip():
        row = Conversation(messages=turns("q", f"4 {cut} 5"), origin="row 7")
        with pytest.raises(UserError, match=rf"^row 7: an answer must not hold {re.escape(repr(cut))}, .* got '4 "):
            tokenize(tokenizer, [row], max_length=10**6)
    else:
        assert frame.end is not None


@pytest.mark.parametrize("name", ANSWERABLE)
def test_every_answer_of_a_conversation_follows_the_prompt_of_its_turn(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(name)
    set_template(tokenizer, str(FILES[name]))
    messages = [turn for i, answer in enumerate(("first", "\n\nsecond", "third")) for turn in turns(f"q {i}", answer)]
    expected = []
    for i in (1, 3, 5):
        prompt = tokenizer(chat_text(tokenizer, messages[:i], answer_follows=True), add_special_tokens=False)[
            "input_ids"
        ]
        expected.append((prompt, messages[i]["content"].strip()))
    for example in tokenize(tokenizer, [Conversation(messages=messages)], max_length=10**6).examples:
        ids, labels = example["input_ids"], example["labels"]
        while expected and ids[: len(expected[0][0])] == expected[0][0]:
            prompt, answer = expected.pop(0)
            assert labels[len(prompt) - 1] == IGNORED
            end = next((i for i in range(len(prompt), len(ids)) if labels[i] == IGNORED), len(ids))
            assert answer in tokenizer.decode(ids[len(prompt) : end])
            assert frame_of(tokenizer, is_chat=True).end in ids[len(prompt) : end]
    assert not expected


DATED = [name for name in ANSWERABLE if "strftime_now" in FILES[name].read_text(encoding="utf-8")]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PLAIN += "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.mark.parametrize("name", [*DATED, "every part of a date"])
@pytest.mark.parametrize("how", ["a file", "the tokenizer's", "one of the tokenizer's"])
def test_a_prompt_is_the_same_on_any_day(name: str, how: str, tmp_path: Path) -> None:
    formats = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%A, %-d %B %y %H:%M:%S")
    every = "".join(f"{{{{ strftime_now({code!r}) }}}}; " for code in formats)
    text = FILES[name].read_text(encoding="utf-8") if name in FILES else every + PLAIN
    file = tmp_path / "own.jinja"
    file.write_text(text, encoding="utf-8")
    tokenizer = tokenizer_for(name if name in FILES else "smollm2")
    tokenizer.chat_template = {"default": text, "tool_use": "x"} if how == "one of the tokenizer's" else text
    today = chat_text(tokenizer, turns("q", "a"), answer_follows=False)
    set_template(tokenizer, str(file) if how == "a file" else "tokenizer")
    fixed = chat_text(tokenizer, turns("q", "a"), answer_follows=False)
    now = datetime.datetime.now()
    shown = [code for code in formats[:3] if now.strftime(code) in today]
    for code in shown:
        today = today.replace(now.strftime(code), datetime.datetime(2024, 7, 26).strftime(code))
    assert shown
    if name in FILES:
        assert fixed == today
    else:
        assert fixed.startswith("2024-07-26; 26 Jul 2024; 26 July 2024; Friday, 26 July 24 00:00:00; <user>q")
    set_template(tokenizer, "tokenizer")
    assert chat_text(tokenizer, turns("q", "a"), answer_follows=False) == fixed


def test_a_template_without_a_date_is_left_as_it_is() -> None:
    tokenizer = tokenizer_for("smollm2")
    set_template(tokenizer, str(FILES["smollm2"]))
    assert tokenizer.chat_template == FILES["smollm2"].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ANSWERABLE)
def test_preferences_are_learnt_as_conversations_are(name: str) -> None:
    tokenizer = tokenizer_for(name)
    set_template(tokenizer, str(FILES[name]))
    better, worse = (Conversation(messages=turns("question", answer)) for answer in ANSWERS[:2])
    examples = tokenize(tokenizer, [better, worse], max_length=10**6).examples
    pair = Preference(prompt=better.messages[:1], chosen=ANSWERS[0], rejected=ANSWERS[1])
    (tokens,) = tokenize(tokenizer, [pair], max_length=10**6).examples
    for name, example in zip(("chosen_ids", "rejected_ids"), examples, strict=True):
        assert tokens["prompt_ids"] + tokens[name] == example["input_ids"]


@pytest.mark.parametrize("name", sorted(THINKS))
def test_a_template_whose_prompt_does_not_begin_its_answers_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"^task\.chat_template=.*{name}.jinja.* conversation continues with"):
        set_template(tokenizer_for(name), str(FILES[name]))


@pytest.mark.parametrize("name", sorted(OF_PARTS))
def test_a_template_that_leaves_out_texts_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"^task\.chat_template=.*{name}.jinja"):
        set_template(tokenizer_for(name), str(FILES[name]))


def test_an_answer_that_a_template_changes_is_named_by_its_row() -> None:
    """DeepSeek's templates leave out what stands before </think>: here one that can be asked does so."""
    tokenizer = tokenizer_with([], "</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'].split('</think>')[-1] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    rows = [Conversation(messages=turns("q", "why </think> 4"), origin="data.jsonl, row 41")] * 3
    rule = r"^data\.jsonl, row 41: task\.chat_template must not change an assistant's turn.* \(3 rows in all"
    with pytest.raises(UserError, match=rule):
        tokenize(tokenizer, rows, max_length=100)


def test_what_a_model_says_beside_a_template_s_own_stays() -> None:
    tokenizer = tokenizer_for("qwen3")
    set_template(tokenizer, str(FILES["qwen3"]))
    frame = frame_of(tokenizer, is_chat=True)
    end = [tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def said(text: str) -> str:
        return frame.answer_in(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"], end)

    assert said("<think>\n\n</think>\n\n4<|im_end|>more") == "\n\n4"
    assert said("<think>\nsum\n</think>\n\n4<|im_end|>") == "\nsum\n\n\n4"  # its markers are special here
    assert said("4") == "4"


def test_special_tokens_are_read_in_an_answer_whose_right_one_holds_them() -> None:
    tokenizer = tokenizer_for("smollm2")
    frame, ids = frame_of(tokenizer, is_chat=False), tokenizer("a <s> b <pad>")["input_ids"]
    assert frame.answer_in(tokenizer, ids, []) == "a  b "
    assert frame.answer_in(tokenizer, ids, [], right="4") == "a  b "
    assert frame.answer_in(tokenizer, ids, [], right="a <s> b") == "a <s> b "


def test_special_tokens_are_read_in_an_answer_that_a_pattern_finds(tmp_path: Path) -> None:
    tokenizer = tokenizer_for("smollm2")
    rows = [{"q": f"question {i}", "a": f"It is {answer}."} for i, answer in enumerate(("4", "a <s> b", "<pad>4"))]
    suite = held_out(write(tmp_path, rows), answer_pattern=r"is (.*)\.", max_new_tokens=30).suite("own")
    taught = [Example(prompt=row["q"], completion=row["a"]) for row in rows]
    reader, pairs = evaluation_inputs(tokenizer, None, tmp_path, is_chat=False), []
    for row, example in zip(rows, tokenize(tokenizer, taught, max_length=100).examples, strict=True):
        prompt = token_ids(reader, row["q"])
        pairs.append((prompt, example["input_ids"][len(prompt) :]))
    assert ask(suite, evaluation_inputs(tokenizer, pupil(tokenizer, pairs), tmp_path, is_chat=False)).value == 1

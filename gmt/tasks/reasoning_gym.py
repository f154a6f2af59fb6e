"""Tasks from reasoning-gym's families, which generate questions with answers and a scorer from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gmt import settings
from gmt.errors import UserError, within
from gmt.settings import neutral
from gmt.tasks.chat import check_template, template_fingerprint
from gmt.tasks.evaluations import Evaluation, check_evaluations, fingerprints, make_suites, used_files
from gmt.tasks.generated import (
    ANSWERS,
    GIVEN,
    answer_of,
    check_entry,
    drawn_questions,
    examples_of,
    generator_version,
    numbers_of,
    other_examples,
    prompt_of,
    reordered,
    words_of,
)
from gmt.tasks.protocol import Benchmark, Example, Suite, TrainExample
from gmt.used_files import UsedFiles

# Training examples, suites' questions, a suite's other questions and replayed examples are drawn from different seeds.
_SUITE_SEED_OFFSET = 1_000_003  # added to data_seed, unless question_seed is set
_FURTHER_SEED_OFFSET = 1_000_003  # added to a suite's seed
_REPLAY_SEED_OFFSET = 3 * 1_000_003  # added to data_seed
_HELD_OUT = ("question", "words", "numbers")


@dataclass(frozen=True, kw_only=True)
class ReasoningGymTask:
    """Trains on questions of one or more families, and evaluates on questions of the same or other families.

    Args:
        name: the name of the task in tables.
        data_seed: the seed of the generated training examples and, by default, of the questions; not varied by the
            run's seed. reasoning-gym draws question i from seed + i, so two seeds give disjoint draws only if they
            differ by at least num_examples.
        chat_template: null for plain prompts; `tokenizer`, a file, or a template in this package: a prompt is then a
            user's turn, and a completion the assistant's.
        train: the training data: a mapping of names to {family, settings, num_examples}. `answer: backward` writes the
            right answers from their last character to their first.
        target: evaluations of the trained skill, by name: entries as in `train`, or evaluations with a `_target_`.
        source: evaluations of skills that the base has before the training, in the same form; they measure forgetting.
        max_new_tokens: the most tokens of an answer.
        hold_out: the part that a training example must not share with a target question; examples that share it are
            left out. `question`: the whole text; `words`: the words and numbers, in any order; `numbers`: the numbers,
            in any order and among any words. A question without a number holds out every example without one.
        distinct: whether a suite asks each question only once.
        question_seed: the seed of the suites' questions alone, so that they and the training examples can be varied
            separately; null for data_seed + 1,000,003.
        replay: the share, in [0, 1), of the training examples that are newly drawn from the source's families, equally
            many from each. They are added to the others, without any question that a suite asks.

    Raises:
        UserError: a key is missing or unknown, a number is out of its range, or there is no family to train on or no
            suite. Unknown families are found when questions are drawn.
    """

    name: str
    data_seed: int
    chat_template: str | None
    train: Mapping[str, Mapping[str, Any]]
    target: Mapping[str, Mapping[str, Any] | Evaluation]
    source: Mapping[str, Mapping[str, Any] | Evaluation]
    max_new_tokens: int
    hold_out: str = neutral("question")
    distinct: bool = neutral(False)
    question_seed: int | None = neutral(None)
    replay: float = neutral(0.0)

    def __post_init__(self) -> None:
        settings.integer("task.data_seed", self.data_seed, low=0)
        settings.integer("task.max_new_tokens", self.max_new_tokens, low=1)
        settings.one_of("task.hold_out", self.hold_out, _HELD_OUT)
        settings.boolean("task.distinct", self.distinct)
        settings.number("task.replay", self.replay, "must lie in [0, 1)", low=0, high=1)
        if self.question_seed is not None:
            settings.integer("task.question_seed", self.question_seed, low=0)
        check_template(self.chat_template)
        for name in ("train", "target", "source"):
            if not isinstance(getattr(self, name), Mapping):
                raise UserError(f"task.{name} must be a mapping of names to entries, got {getattr(self, name)!r}")
        if not self.train:
            raise UserError("task.train must name at least one family, got none")
        for name, entry in self.train.items():
            check_entry(f"task.train.{name}", entry)
        for part in ("target", "source"):
            for name, entry in getattr(self, part).items():
                if isinstance(entry, Mapping):
                    check_entry(f"task.{part}.{name}", entry)
            check_evaluations(f"task.{part}", self._evaluations(part))
        if self.replay and not self._source_families():
            raise UserError(f"task.replay must be 0 where task.source names no generated family, got {self.replay}")

    @property
    def is_preference(self) -> bool:
        """False: each question has one right answer."""
        return False

    def fingerprint(self) -> str:
        """Return the version of reasoning-gym, and the fingerprints of the chat template and the other evaluations."""
        others = fingerprints(*(self._other_evaluations(part) for part in ("target", "source")))
        version = f"reasoning-gym=={generator_version()}"
        return "; ".join(filter(None, [version, template_fingerprint(self.chat_template), others]))

    def used_files(self) -> dict[str, UsedFiles]:
        """Return the files of the evaluations that are not generated families."""
        return used_files(*(self._other_evaluations(part) for part in ("target", "source")))

    def train_examples(self) -> list[TrainExample]:
        """Return the training examples, without those that `hold_out` excludes."""
        suites = self.suites()
        prompts = {
            part: {prompt for suite in named.values() if isinstance(suite, Suite) for prompt in suite.prompts}
            for part, named in suites.items()
        }
        held_out = {self._held_out(prompt) for prompt in prompts["target"]}
        drawn: list[Example] = []
        for name, entry in self.train.items():
            with within(f"task.train.{name}"):
                drawn += examples_of(entry, self.data_seed)
        remaining = [example for example in drawn if self._held_out(example.prompt) not in held_out]
        replayed = self._replayed(len(remaining), prompts["source"])
        replayed = [example for example in replayed if self._held_out(example.prompt) not in held_out]
        return [self._formatted(example) for example in (*remaining, *replayed)]

    def suites(self) -> dict[str, dict[str, Suite | Benchmark]]:
        """Return the suites and benchmarks, by part and name."""
        return {part: make_suites(f"task.{part}", self._evaluations(part)) for part in ("target", "source")}

    def _held_out(self, prompt: str) -> str | tuple[str, ...]:
        if self.hold_out == "numbers":
            return numbers_of(prompt)
        return words_of(prompt) if self.hold_out == "words" else prompt

    def _replayed(self, number: int, prompts: set[str]) -> list[Example]:
        """Return new examples of the source's families, as many as give them the share `replay`.

        Args:
            number: the number of training examples to which they are added.
            prompts: the prompts of the source suites, which are left out.
        """
        families, seed = self._source_families(), self.data_seed + _REPLAY_SEED_OFFSET
        wanted = round(number * self.replay / (1 - self.replay))
        numbers = [wanted // len(families) + (i < wanted % len(families)) for i in range(len(families))]
        pairs = zip(families, numbers, strict=True)
        return [e for entry, count in pairs if count for e in other_examples(entry, seed, count, prompts)]

    def _source_families(self) -> list[Mapping[str, Any]]:
        return [entry for entry in self.source.values() if isinstance(entry, Mapping)]

    def _formatted(self, example: Example) -> TrainExample:
        return example if self.chat_template is None else example.as_turns()

    def _evaluations(self, part: str) -> dict[str, Evaluation]:
        seed = self.data_seed + _SUITE_SEED_OFFSET if self.question_seed is None else self.question_seed
        return {
            name: Family(**entry, data_seed=seed, max_new_tokens=self.max_new_tokens, distinct=self.distinct)
            if isinstance(entry, Mapping)
            else entry
            for name, entry in getattr(self, part).items()
        }

    def _other_evaluations(self, part: str) -> dict[str, Evaluation]:
        return {name: entry for name, entry in getattr(self, part).items() if not isinstance(entry, Mapping)}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Questions of one family.

    Args:
        family: its name, e.g. `gsm_symbolic`.
        settings: settings of the family; reasoning-gym's defaults hold for the others.
        num_examples: the number of questions.
        data_seed: question i is drawn from data_seed + i.
        max_new_tokens: the most tokens of an answer.
        answer: `given`, or `backward`: the right answer is written from its last character to its first.
        distinct: whether each question occurs only once; question i is then the i-th new one.

    Raises:
        UserError: a number is out of its range. Unknown families and settings are found when questions are drawn.
    """

    family: str
    settings: Mapping[str, Any]
    num_examples: int
    data_seed: int
    max_new_tokens: int
    answer: str = neutral(GIVEN)
    distinct: bool = neutral(False)

    def __post_init__(self) -> None:
        settings.one_of("answer", self.answer, ANSWERS)
        settings.boolean("distinct", self.distinct)
        for name, low in (("num_examples", 1), ("data_seed", 0), ("max_new_tokens", 1)):
            settings.integer(name, getattr(self, name), low=low)

    def fingerprint(self) -> str:
        """Return the version of reasoning-gym."""
        return f"reasoning-gym=={generator_version()}"

    def suite(self, name: str) -> Suite:
        """Return the questions, with the family's own scorer."""
        dataset, questions = self._drawn(self.data_seed)

        def score(index: int, text: str) -> float:
            return float(dataset.score_answer(answer=reordered(text, self.answer), entry=questions[index]))

        def further_prompts() -> list[str]:
            _, further_questions = self._drawn(self.data_seed + _FURTHER_SEED_OFFSET)
            return [prompt_of(question) for question in further_questions]

        return Suite(
            name=name,
            prompts=[prompt_of(question) for question in questions],
            score=score,
            max_new_tokens=self.max_new_tokens,
            further_prompts=further_prompts,
            answers=[answer_of(question, self.answer) for question in questions],
        )

    def _drawn(self, seed: int) -> tuple[Any, list[dict[str, Any]]]:
        entry = {"family": self.family, "settings": self.settings, "num_examples": self.num_examples}
        return drawn_questions(entry, seed, distinct=self.distinct)

"""Tasks from reasoning-gym's generated families: questions from a seed, with answers and a scorer each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices, within
from gmt.tasks.chat import check_template, template_fingerprint
from gmt.tasks.evaluations import Evaluation, built, fingerprints, made, used_files
from gmt.tasks.protocol import Benchmark, Conversation, Example, Suite, TrainExample
from gmt.used_files import UsedFiles

_SUITE_SEED_OFFSET = 1_000_003  # suites are drawn from another seed than training examples
_OTHERS_SEED_OFFSET = 1_000_003  # and a suite's other questions from another seed than those that it asks
_KEYS = {"family", "settings", "num_examples"}


@dataclass(frozen=True, kw_only=True)
class ReasoningGymTask:
    """Trains on a mixture of families and asks questions of others.

    Args:
        name: the word for it in tables.
        data_seed: seed of every generated question; the same data for every run of a study. reasoning-gym draws
            question i from seed + i: two seeds give data of their own only if they lie num_examples apart.
        chat_template: as of a DatasetTask.
        train: name -> {family, settings, num_examples}: what is trained on.
        target: likewise, or an evaluation with a `_target_`: what is to be learnt.
        source: likewise: what the base could do before; forgetting is measured in it.
        max_new_tokens: how many tokens an answer may take.

    Raises:
        UserError: an unknown family or key, no training example, no suite.
    """

    name: str
    data_seed: int
    chat_template: str | None
    train: Mapping[str, Mapping[str, Any]]
    target: Mapping[str, Mapping[str, Any] | Evaluation]
    source: Mapping[str, Mapping[str, Any] | Evaluation]
    max_new_tokens: int

    def __post_init__(self) -> None:
        settings.text("task.name", self.name)
        settings.integer("task.data_seed", self.data_seed, low=0)
        settings.integer("task.max_new_tokens", self.max_new_tokens, low=1)
        check_template(self.chat_template)
        if not self.train:
            raise UserError("task.train must name at least one family, got none")
        for name, entry in self.train.items():
            _check_entry(f"task.train.{name}", entry)
        for part in ("target", "source"):
            for name, entry in getattr(self, part).items():
                if isinstance(entry, Mapping):
                    _check_entry(f"task.{part}.{name}", entry)
            built(f"task.{part}", self._evaluations(part))

    @property
    def is_preference(self) -> bool:
        """Never: each question has one right answer."""
        return False

    def fingerprint(self) -> str:
        """The generator's version: together with the settings it decides every question."""
        others = fingerprints(*(self._others(part) for part in ("target", "source")))
        version = f"reasoning-gym=={_version()}"
        return "; ".join(filter(None, [version, template_fingerprint(self.chat_template), others]))

    def used_files(self) -> dict[str, UsedFiles]:
        """Those of what is asked beside the families, which are generated."""
        return used_files(*(self._others(part) for part in ("target", "source")))

    def train_examples(self) -> list[TrainExample]:
        """The training examples; a question that a target suite asks is left out."""
        suites = [suite for suite in self.suites()["target"].values() if isinstance(suite, Suite)]
        asked = {prompt for suite in suites for prompt in suite.prompts}
        drawn = [
            Example(prompt=_prompt(entry["question"]), completion=str(entry["answer"]))
            for name, mixed in self.train.items()
            for entry in _generate(f"task.train.{name}", mixed, self.data_seed)
        ]
        return [self._put(example) for example in drawn if example.prompt not in asked]

    def suites(self) -> dict[str, dict[str, Suite | Benchmark]]:
        """What is evaluated."""
        return {part: made(f"task.{part}", self._evaluations(part)) for part in ("target", "source")}

    def _put(self, example: Example) -> TrainExample:
        if self.chat_template is None:
            return example
        turns = {"user": example.prompt, "assistant": example.completion}
        return Conversation(messages=[{"role": role, "content": text} for role, text in turns.items()])

    def _evaluations(self, part: str) -> dict[str, Evaluation]:
        seed = self.data_seed + _SUITE_SEED_OFFSET
        return {
            name: Family(**entry, data_seed=seed, max_new_tokens=self.max_new_tokens)
            if isinstance(entry, Mapping)
            else entry
            for name, entry in getattr(self, part).items()
        }

    def _others(self, part: str) -> dict[str, Evaluation]:
        return {name: entry for name, entry in getattr(self, part).items() if not isinstance(entry, Mapping)}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Questions of one family.

    Args:
        family: its name, e.g. `gsm_symbolic`.
        settings: of the family; what isn't named is as reasoning-gym has it.
        num_examples: how many questions.
        data_seed: question i is drawn from data_seed + i.
        max_new_tokens: how many tokens an answer may take.

    Raises:
        UserError: a number is out of its range. An unknown family or setting is found when questions are made.
    """

    family: str
    settings: Mapping[str, Any]
    num_examples: int
    data_seed: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        for name, low in (("num_examples", 1), ("data_seed", 0), ("max_new_tokens", 1)):
            settings.integer(name, getattr(self, name), low=low)

    def fingerprint(self) -> str:
        """The generator's version."""
        return f"reasoning-gym=={_version()}"

    def suite(self, name: str) -> Suite:
        """The questions, scored by the family's own scorer."""
        entry = {"family": self.family, "settings": self.settings, "num_examples": self.num_examples}
        dataset = _dataset(entry, self.data_seed)
        entries: Sequence[dict[str, Any]] = [dataset[i] for i in range(len(dataset))]

        def score(index: int, text: str) -> float:
            return float(dataset.score_answer(answer=text, entry=entries[index]))

        def others() -> list[str]:
            more = _dataset(entry, self.data_seed + _OTHERS_SEED_OFFSET)
            return [_prompt(more[i]["question"]) for i in range(len(more))]

        prompts = [_prompt(each["question"]) for each in entries]
        return Suite(
            name=name,
            prompts=prompts,
            score=score,
            max_new_tokens=self.max_new_tokens,
            others=others,
            answers=[str(each["answer"]) for each in entries],
        )


@lru_cache(maxsize=1)
def _version() -> str:
    """Cached: a plan of 10,000 runs asks once for each."""
    return metadata.version("reasoning-gym")


def _prompt(question: str) -> str:
    return question.strip() + "\n"


def _generate(setting: str, entry: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    with within(setting):
        dataset = _dataset(entry, seed)
    for i in range(len(dataset)):
        yield dataset[i]


def _dataset(entry: Mapping[str, Any], seed: int) -> Any:
    """The generated dataset; importing reasoning-gym takes seconds, so that planning never comes here."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    family = entry["family"]
    if family not in DATASETS:
        raise UserError(f"reasoning-gym has no family {family!r}; {choices(str(family), DATASETS)}")
    try:
        return reasoning_gym.create_dataset(family, seed=seed, size=entry["num_examples"], **entry["settings"])
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"reasoning-gym's family {family} refuses {dict(entry['settings'])}: {error}") from error


def _check_entry(setting: str, entry: Any) -> None:
    if not isinstance(entry, Mapping) or set(entry) != _KEYS:
        got = sorted(entry) if isinstance(entry, Mapping) else entry
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_KEYS))}, got {got}")
    settings.integer(f"{setting}.num_examples", entry["num_examples"], low=1)

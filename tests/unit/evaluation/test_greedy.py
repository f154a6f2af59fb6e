"""Answers are greedy by a config of our own, whatever the model's folder says of how to generate."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, PreTrainedModel

from gmt.evaluation import suites
from gmt.evaluation.greedy import answer_ends
from gmt.models.pretrained import SHIPPED
from gmt.tasks.protocol import EvaluationInputs, Suite
from gmt.tasks.turns import frame_of
from tests.models import pretrained

PROMPTS = ["Calculate 1 + 22.\n", "Spell hello backward.\n", "aa"]
FIELDS = sorted(set(GenerationConfig().to_dict()) - {"_from_model_config", "transformers_version", "eos_token_id"})
LOUD: dict[str, Any] = {
    "bad_words_ids": [[each] for each in range(20, 120)],
    "begin_suppress_tokens": list(range(20, 256)),
    "cache_implementation": "quantized",
    "do_sample": True,
    "exponential_decay_length_penalty": [0, 5.0],
    "min_p": 0.9,
    "sequence_bias": [[[each], 50.0] for each in range(100, 110)],
    "stop_strings": ["a", "1"],
    "suppress_tokens": list(range(20, 120)),
    "temperature": 9.0,
    "top_p": 0.1,
}
ON: dict[str, dict[str, Any]] = {"do_sample": {"temperature": 9.0}, "early_stopping": {"num_beams": 3}}
QUIET = ("compile_config", "cache_config", "continuous_batching_config", "watermarking_config", "constraints")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PreTrainedModel], list[str]]:
    tokenizer = pretrained().load_tokenizer()
    suite = Suite(name="s", prompts=PROMPTS, score=lambda i, text: 0.0, max_new_tokens=6)

    def ask(model: PreTrainedModel) -> list[str]:
        scratch = tmp_path_factory.mktemp("asked")
        known = {"tokenizer": tokenizer, "context": 128, "num_embeddings": 256, "is_chat": False}
        inputs = EvaluationInputs(**known, model=model, cpus=1, scratch=scratch, on_progress=lambda *_: None)
        return suites.generate(inputs, suite)

    return ask


@pytest.mark.heavy
def test_no_field_of_a_generation_config_changes_an_answer(answers: Callable[[PreTrainedModel], list[str]]) -> None:
    model = pretrained().load_model()
    plain, own = answers(model), model.generation_config
    assert any(plain)
    changed = []
    for field in [each for each in FIELDS if each not in QUIET]:
        model.generation_config = GenerationConfig.from_dict(own.to_dict())
        for name, value in {field: LOUD.get(field, 3), **ON.get(field, {})}.items():
            setattr(model.generation_config, name, value)
        mine = model.generation_config
        changed += [field] * (answers(model) != plain)
        assert model.generation_config is mine
    assert changed == []


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_no_file_of_a_folder_changes_an_answer(
    answers: Callable[[PreTrainedModel], list[str]], file: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    loud = {
        "repetition_penalty": 5.0,
        "num_beams": 4,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 6,
        "use_cache": False,
    }
    loud |= {"output_hidden_states": True, "return_dict": False}
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | loud))
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    assert answers(pretrained(str(folder)).load_model()) == answers(pretrained().load_model())


def test_code_that_came_with_a_model_does_not_generate(answers: Callable[[PreTrainedModel], list[str]]) -> None:
    model = pretrained().load_model()
    plain = answers(model)
    own = vars(model)["generate"] = lambda **_: pytest.fail("asked")
    assert answers(model) == plain
    assert model.generate is own


def test_the_ends_that_a_model_declares_are_kept() -> None:
    model, tokenizer = pretrained().load_model(), pretrained().load_tokenizer()
    model.generation_config.eos_token_id = [9, 7]
    frame = frame_of(tokenizer, is_chat=False)
    assert answer_ends(model, tokenizer, frame) == [tokenizer.eos_token_id, 7, 9]

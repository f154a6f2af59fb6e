"""What a run can't ask of its model is refused before it begins."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import Phi3Config

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.models.pretrained import SHIPPED
from gmt.runs.build import Run, build
from gmt.runs.prepare import prepare
from tests.conftest import CONF
from tests.models import pretrained
from tests.unit.tasks.test_dataset import write


def run_of(root: Path, *overrides: str) -> Run:
    with hydra_on(str(CONF)):
        return build(Composer().compose_plain(["task=tiny", "method=sft", f"record.root={root}", *overrides]))


def held_out(file: Path) -> list[str]:
    plain = {
        "_target_": "gmt.tasks.dataset.HeldOut",
        "columns": "{prompt: prompt, answer: answer}",
        "prompt_template": "'{prompt}'",
        "answer_pattern": "null",
        "max_new_tokens": "100",
        "data": f"{{path: {file}, subset: null, revision: null, split: train, num_examples: null, seed: 0}}",
    }
    return ["+task.source.mine={" + ", ".join(f"{key}: {value}" for key, value in plain.items()) + "}"]


def test_examples_longer_than_the_context_are_not_asked_for(tmp_path: Path) -> None:
    settings = ["task=dataset", "task.name=x", "task.target.held_out.data.path=shipped:facts.jsonl", "train=sft"]
    settings += ["task.target.held_out.columns.answer=answer"]
    file = write(tmp_path, [{"prompt": "a" * length, "completion": "b"} for length in (5, 100, 150, 3000)])
    with pytest.raises(
        UserError, match=r"train\.max_length must be at most 128, .* got 2048: an example has 154 tokens"
    ):
        prepare(run_of(tmp_path, *settings, f"task.data.path={file}", "train.max_length=2048"))
    prepared = prepare(run_of(tmp_path, *settings, f"task.data.path={file}", "train.max_length=128"))
    assert (prepared.num_examples, prepared.num_dropped) == (2, 2)


def test_an_answer_that_holds_an_end_that_only_the_models_files_name_is_refused_by_its_row(tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    settings = ["task=dataset", "task.name=x", "task.target.held_out.data.path=shipped:facts.jsonl", "train=sft"]
    settings += ["task.target.held_out.columns.answer=answer", "train.max_length=128", f"model.path={folder}"]
    file = write(tmp_path, [{"prompt": "a", "completion": answer} for answer in ("b", "c~c")])
    assert prepare(run_of(tmp_path, *settings, f"task.data.path={file}")).num_examples == 2
    tilde = pretrained().load_tokenizer().convert_tokens_to_ids("~")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, tilde]}))
    with pytest.raises(UserError, match=r"row 2: an answer must not hold '~', .* got 'c~c'"):
        prepare(run_of(tmp_path, *settings, f"task.data.path={file}"))


def with_longrope(tmp_path: Path) -> str:
    """A folder whose model was pretrained on 32 tokens, and takes 128."""
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    Phi3Config(
        max_position_embeddings=128,
        original_max_position_embeddings=32,
        hidden_size=32,
        num_attention_heads=4,
        vocab_size=256,
        pad_token_id=0,
        rope_parameters={**rope, "original_max_position_embeddings": 32},
    ).save_pretrained(folder)
    return str(folder)


def test_an_example_beyond_longropes_original_context_is_alone_in_its_batch(tmp_path: Path) -> None:
    settings = ["task=dataset", "task.name=x", "task.target.held_out.data.path=shipped:facts.jsonl", "train=sft"]
    settings += ["task.target.held_out.columns.answer=answer", "train.max_length=64", "~task.source.sums"]
    settings += [f"model.path={with_longrope(tmp_path)}", "task.target.held_out.max_new_tokens=1"]
    settings += ["+benchmark@task.source.mine=held_out", "task.source.mine.data.path=shipped:facts.jsonl"]
    settings += ["task.source.mine.columns.answer=answer", "task.source.mine.max_new_tokens=1"]
    file = write(tmp_path, [{"prompt": "a" * length, "completion": "b"} for length in (5, 50)])
    alone = [*settings, f"task.data.path={file}", "train.micro_batch_size=1"]
    assert prepare(run_of(tmp_path, *alone)).num_examples == 2
    for together in ("train.micro_batch_size=2", "train.packing=true"):
        with pytest.raises(UserError) as refusal:
            prepare(run_of(tmp_path, *alone, together))
        (sentence,) = refusal.value.sentences
        assert "train.max_length must be at most 32, the original context of model" in sentence
        assert "LongRoPE" in sentence
        assert "takes up to 128), got 64: an example has 54 tokens" in sentence


def test_questions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, [{"prompt": "a" * 27, "answer": "b"}])
    prepare(run_of(tmp_path, *held_out(file)))
    file = write(tmp_path, [{"prompt": "a" * 40, "answer": "b"}])
    with pytest.raises(
        UserError, match=r"task\.source\.mine: mine has a prompt of 41 tokens.* has room for 28 .*a smaller max_new"
    ):
        prepare(run_of(tmp_path, *held_out(file)))


def test_a_benchmark_that_there_is_not_is_refused_by_the_name_it_has_in_the_task(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.target\.gsm: lm-eval has no task 'gsm9k'; did you mean"):
        prepare(run_of(tmp_path, "+benchmark@task.target.gsm=gsm8k", "task.target.gsm.task=gsm9k"))


def with_token(tmp_path: Path, text: str, number: int) -> str:
    """A folder whose tokenizer gives a text another number."""
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][text] = number
    for added in tokenizer["added_tokens"]:
        added["id"] = number if added["content"] == text else added["id"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [("e", "an example's token"), ("</s>", "an example's token"), ("<pad>", "its pad token")],
)
def test_a_tokenizer_beyond_the_embeddings_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UserError, match=rf"an embedding for every token, .* gives {what} the id 10000, .* has 256 "):
        prepare(run_of(tmp_path, f"model.path={with_token(tmp_path, text, 10_000)}"))


def test_tokens_without_an_embedding_only_in_what_is_asked_are_refused(tmp_path: Path) -> None:
    folder = with_token(tmp_path, "?", 256)
    prepare(run_of(tmp_path, f"model.path={folder}"))
    file = write(
        tmp_path, [{"prompt": "a", "answer": "b", "text": "so"}, {"prompt": "a?", "answer": "b", "text": "so?"}]
    )
    text = "{_target_: gmt.evaluation.perplexity.Perplexity, column: text, max_length: 99, batch_size: 1, "
    text += f"data: {{path: {file}, subset: null, revision: null, split: train, num_examples: null, seed: 0}}}}"
    wanted = [*held_out(file), f"+task.source.text={text}"]
    with pytest.raises(UserError) as refusal:
        prepare(run_of(tmp_path, f"model.path={folder}", *wanted))
    of_suite, of_text = sorted(refusal.value.sentences)
    assert "task.source.mine: " in of_suite
    assert "a token of mine's prompts the id 256, and the model has 256 embeddings" in of_suite
    assert "task.source.text: " in of_text
    assert "a token of the texts the id 256" in of_text

"""A step is the same however it is cut into batches, and so is an answer, for every architecture; or it is refused."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import add_fused_lm_head

from gmt.errors import UserError
from gmt.evaluation import suites
from gmt.evaluation.padding import sees_padding
from gmt.methods.sft import Sft
from gmt.tasks.protocol import EvaluationInputs, Suite
from gmt.tasks.tokens import IGNORED
from gmt.training import alike
from gmt.training.alike import check_alike
from gmt.training.packing import packed
from gmt.training.paradigms import Execution, TrainingInputs, trainer_of
from tests.architectures import ALL, tiny_model
from tests.models import pretrained, train_settings

# learnt, rotary and linearly biased positions; sliding windows; experts; no attention at all; soft-capped logits; a
# model that sees padding on its left, and one with more behind its last layer than TRL's loss knows
FEW = ("bloom", "gemma2", "gpt2", "gpt_oss", "llama", "mamba", "mixtral", "modernbert-decoder", "opt", "rwkv")
# Types of transformers 5.23 that tests/architectures.py cuts to no size that works: a config that is guessed by names
# of settings does not fit them, or a size has no setting. Not known to be right, and not known to be wrong.
NOT_BUILT = {
    *("blt", "cohere_compass_text", "dbrx", "dots3_note", "dots3_note_text", "gemma3n", "gemma4", "gemma4_assistant"),
    *("gemma4_text", "gemma4_unified", "gemma4_unified_assistant", "gemma4_unified_text", "hrm_text", "longcat_flash"),
    *("musicgen", "musicgen_melody", "qwen4_exp", "qwen4_exp_text", "xlstm", "zamba", "zamba2"),
}
KINDS = [pytest.param(kind, marks=[] if kind in FEW else pytest.mark.slow) for kind in ALL if kind not in NOT_BUILT]
LEAKS_IN_A_ROW = {"bloom", "gpt_oss", "mamba", "opt", "rwkv"}
LENGTHS = (5, 12, 8)
ROUNDING = 1e-4


def model_of(kind: str) -> PreTrainedModel:
    model = tiny_model(kind)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def examples() -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 256, (length,), generator=generator).tolist() for length in LENGTHS]
    return [{"input_ids": ids, "labels": [IGNORED] * 2 + ids[2:]} for ids in rows]


def step(kind: str, tmp_path: Path, **train: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of the optimizer step over all examples, as the trainer cuts it."""
    model, rows, tokenizer = model_of(kind), Dataset.from_list(examples()), pretrained().load_tokenizer()
    tokenizer.padding_side = "left"
    settings = train_settings(**train)
    if settings.packing:
        rows = packed(rows, 64)
    where = Execution(device="cpu", sharding="none", checkpoints=tmp_path / "c", checkpoint_every=9, log_every=1)
    trainer: Any = trainer_of(
        TrainingInputs(
            model=model,
            tokenizer=tokenizer,
            examples=rows,
            reference=lambda: model,
            base=lambda: model,
            method=Sft(name="sft"),
        ),
        settings,
        1,
        where,
        [],
    )
    tokens = [token for row in examples() for token in row["input_ids"]]
    how = "packed" if settings.packing else "padded"
    check_alike(model, trainer.data_collator, tokens, batch_size=settings.micro_batch_size, kind=how)
    batches, model = list(trainer.get_train_dataloader()), model.train()
    number, total = sum((batch["labels"][:, 1:] >= 0).sum() for batch in batches), 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=number)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def truth(kind: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The same by the definition: the mean cross entropy of what is to be said, each example alone in the model."""
    model, total = model_of(kind).train(), torch.zeros(())
    number = sum(label >= 0 for row in examples() for label in row["labels"][1:])
    for row in examples():
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], reduction="sum")
    (total / number).backward()
    return float(total.detach() / number), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_however_it_is_cut_or_it_is_refused(kind: str, tmp_path: Path) -> None:
    loss, gradient = truth(kind)
    scale = max(float(g.abs().max()) for g in gradient.values())
    cuts = [{"micro_batch_size": 1}, {"micro_batch_size": 2}, {"micro_batch_size": 3}]
    refused: list[tuple[bool, str]] = []
    for cut in [*cuts, {"micro_batch_size": 1, "packing": True}]:
        try:
            found, its_gradient = step(kind, tmp_path, **cut)
        except UserError as error:
            refused.append(("packing" in cut, str(error)))
            continue
        assert found == pytest.approx(loss, abs=ROUNDING), cut
        for name, expected in gradient.items():
            torch.testing.assert_close(its_gradient[name], expected, rtol=ROUNDING, atol=ROUNDING * scale)
    assert all(f"type {model_of(kind).config.model_type}" in sentence for _, sentence in refused)
    if kind in FEW:
        expected = [False, False, False, True] if kind == "modernbert-decoder" else [True] * (kind in LEAKS_IN_A_ROW)
        assert [packing for packing, _ in refused] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaks_in_a_row_is_refused_in_any_dtype_and_with_any_weights(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding in bfloat16 is larger than a leak, and so is that in float32 with a model's first weights."""
    monkeypatch.setattr("gmt.training.alike._KNOWN", {})
    large = model_of(kind)
    small = model_of(kind)
    torch.manual_seed(0)
    for parameter in small.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    for model, dtype in itertools.product((large, small), (torch.float32, torch.bfloat16)):
        model.to(dtype)
        add_fused_lm_head(model)
        refused = refusals(model)
        alike._KNOWN.clear()
        # modernbert-decoder leaks nothing; it may be refused since TRL's loss differs from its own (in bfloat16 by less
        # than rounding). For kinds beyond FEW the expected result is unknown, so the check only has to return.
        if kind in FEW and kind != "modernbert-decoder":
            assert refused == ["packed"] * (kind in LEAKS_IN_A_ROW), dtype


def refusals(model: PreTrainedModel) -> list[str]:
    """The kinds of batches in which check_alike refuses the model."""
    tokens, refused = [token for row in examples() for token in row["input_ids"]], []
    for kind in ("padded", "packed"):
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=kind == "packed")
        try:
            check_alike(model, collate, tokens, batch_size=2, kind=kind)
        except UserError:
            refused.append(kind)
    return refused


def asked_of(model: PreTrainedModel, scratch: Path) -> EvaluationInputs:
    scratch.mkdir()
    return EvaluationInputs(
        tokenizer=pretrained().load_tokenizer(),
        context=128,
        num_embeddings=256,
        is_chat=False,
        model=model,
        cpus=1,
        scratch=scratch,
        on_progress=lambda done, number: None,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_does_not_depend_on_the_other_questions(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, answers = model_of(kind), []
    suite = Suite(name="s", prompts=["a", "bcdef", "ghi"], score=lambda i, text: 0.0, max_new_tokens=6)
    for size in (1, 256):
        monkeypatch.setattr(suites, "BATCH_SIZE", size)
        answers.append(suites.generate(asked_of(model, tmp_path / str(size)), suite))
    assert answers[0] == answers[1]
    assert kind not in FEW or sees_padding(model, [5, 6, 7], 0, left=True) == (kind == "rwkv")


@pytest.mark.parametrize("kind", ["llama", "mixtral", "opt"])
def test_a_step_of_preferences_is_the_same_however_it_is_cut(kind: str, tmp_path: Path) -> None:
    rows = [
        {"prompt_ids": ids[:2], "chosen_ids": ids[2:], "rejected_ids": ids[:1:-1][:3]}
        for ids in (row["input_ids"] for row in examples())
    ]
    found = []
    for size in (1, 3):
        model, settings = model_of(kind), train_settings(paradigm="dpo", dpo_beta=0.1, micro_batch_size=size)
        where = Execution(device="cpu", sharding="none", checkpoints=tmp_path, checkpoint_every=9, log_every=1)
        made = TrainingInputs(
            model=model,
            tokenizer=pretrained().load_tokenizer(),
            examples=Dataset.from_list(rows),
            reference=lambda: tiny_model(kind, hidden_act="gelu"),
            base=lambda: tiny_model(kind, hidden_act="gelu"),
            method=Sft(name="sft"),
        )
        trainer: Any = trainer_of(made, settings, 1, where, [])
        check_alike(model, trainer.data_collator, rows[0]["chosen_ids"], batch_size=size, kind="preferences")
        batches = list(trainer.get_train_dataloader())
        for batch in batches:
            (trainer.compute_loss(model.train(), dict(batch)) / len(batches)).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    scale = max(float(g.abs().max()) for g in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=ROUNDING, atol=ROUNDING * scale)

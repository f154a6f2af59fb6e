"""The mask in the loops that people have: attached in two lines, it masks each real optimizer step once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.masking import Mask, MaskSpec, attach
from tests.signals import BY_STRETCHES

SPEC = MaskSpec(mask_ratio=0.75)
NUM_BATCHES = 4


def a_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, pad_token_id=0, **sizes))


def an_optimizer(model: nn.Module, **loop: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, **loop)


def batches() -> list[Tensor]:
    return list(torch.randint(1, 20, (NUM_BATCHES, 3, 10), generator=torch.Generator().manual_seed(1)))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=tokens, labels=tokens).loss
    return loss


class Watched:
    """Sees at every step of an optimizer what gradients it was given."""

    def __init__(self, optimizer: torch.optim.Optimizer, mask: Mask):
        self.num_steps = 0
        self._mask = mask
        optimizer.register_step_post_hook(self._look)

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.num_steps += 1
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    assert int((p.grad == 0).sum()) >= int(0.7 * p.numel())  # 0.75, but for ties in bfloat16
                    assert bool(p.grad.any())

    def assert_masked(self, num_steps: int) -> None:
        facts = self._mask.facts()
        assert facts is not None
        assert self.num_steps == facts.step == num_steps
        assert facts.density == pytest.approx(0.25, abs=0.02)


def plain_loop(
    spec: MaskSpec | None = SPEC,
    *,
    step: Callable[[nn.Module, torch.optim.Optimizer, Tensor], None] | None = None,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    accumulate: int = 1,
    **loop: bool,
) -> list[Tensor]:
    """The loop that others must equal, in which a test may change a step or the model."""
    model = prepare(a_model())
    optimizer = an_optimizer(model, **loop)
    mask = attach(model, optimizer, spec, seed=5) if spec else None
    watched = Watched(optimizer, mask) if mask and spec is SPEC else None
    for i, tokens in enumerate(batches()):
        if step:
            step(model, optimizer, tokens)
            continue
        (loss_of(model, tokens) / accumulate).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    if watched:
        watched.assert_masked(NUM_BATCHES // accumulate)
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_bf16_autocast() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()

    assert not same(plain_loop(step=step), plain_loop(None, step=step))  # and `Watched` looked at each step


def test_weights_and_gradients_in_bf16() -> None:
    masked, dense = (plain_loop(spec, prepare=lambda model: model.to(torch.bfloat16)) for spec in (SPEC, None))
    assert {p.dtype for p in masked} == {torch.bfloat16}
    assert not same(masked, dense)  # and `Watched` looked at each step


@pytest.mark.parametrize("signal", BY_STRETCHES)
@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_changes_nothing_and_skips_steps_that_overflow(signal: str, fused: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    overflows_at, seen = 2, []

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
        for attempt in range(2 if len(seen) == overflows_at else 1):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, tokens)).backward()
            overflow = len(seen) == overflows_at and attempt == 0
            before = [p.detach().clone() for p in model.parameters()]
            if overflow:
                next(model.parameters()).grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            assert same(before, [p.detach() for p in model.parameters()]) == overflow
        seen.append(tokens)

    spec = MaskSpec(mask_ratio=0.75, signal=signal, refresh=2)
    scaled = plain_loop(spec, step=step, fused=fused)
    assert scaler.get_scale() == 2.0**9
    # A power of two scales without rounding; the fused kernel divides by it in an order of its own.
    for a, b in zip(scaled, plain_loop(spec, fused=fused), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6 if fused else 0)


def test_gradient_checkpointing_changes_nothing() -> None:
    def prepare(model: nn.Module) -> nn.Module:
        model.gradient_checkpointing_enable()
        return model.train()

    assert same(plain_loop(prepare=prepare), plain_loop(prepare=nn.Module.train))


@pytest.mark.parametrize("signal", ["gradient", "random"])
def test_a_compiled_model_is_masked_like_a_plain_one(signal: str) -> None:
    spec = MaskSpec(mask_ratio=0.75, signal=signal)
    # Eager graphs: what matters here is the wrapper and its hooks, and it gives the same bits.
    compiled = plain_loop(spec, prepare=lambda model: torch.compile(model, backend="aot_eager"))
    for a, b in zip(compiled, plain_loop(spec), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


def test_accelerate(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = a_model()
    optimizer = an_optimizer(model)
    loader = DataLoader(batches(), batch_size=None)  # type: ignore[arg-type]
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    mask = attach(model, optimizer, SPEC, seed=5)
    watched = Watched(optimizer.optimizer, mask)
    for tokens in loader:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, tokens))
            optimizer.step()
            optimizer.zero_grad()
    watched.assert_masked(NUM_BATCHES // 2)
    assert same([p.detach() for p in model.parameters()], plain_loop(accumulate=2))


def test_transformers_trainer(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        max_grad_norm=0.1, num_train_epochs=1, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    examples = [{"input_ids": row, "labels": row} for tokens in batches() for row in tokens]
    trainer = Trainer(a_model(), args, train_dataset=examples)
    mask = attach(trainer.model, trainer.create_optimizer(), SPEC)
    watched = Watched(trainer.optimizer, mask)
    trainer.train()
    watched.assert_masked(len(examples) // 2)


def test_trl_sft_trainer(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    import gmt.models

    nano = Path(gmt.models.__file__).parent / "shipped" / "nano"
    tokenizer = AutoTokenizer.from_pretrained(nano)
    rows = [{"prompt": f"{i} + {i} =", "completion": f" {2 * i}"} for i in range(8)]
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        max_steps=3, report_to="none", save_strategy="no", disable_tqdm=True, bf16=False,
    )  # fmt: skip
    trainer = SFTTrainer(str(nano), args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    mask = attach(trainer.model, trainer.create_optimizer(), SPEC)
    watched = Watched(trainer.optimizer, mask)
    trainer.train()
    watched.assert_masked(3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning(precision: str, tmp_path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = a_model()

        def training_step(self, tokens: Tensor) -> Tensor:
            return loss_of(self.model, tokens)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = an_optimizer(self)
            self.mask = attach(self, optimizer, SPEC)
            self.watched = Watched(optimizer, self.mask)
            return optimizer

    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, gradient_clip_val=0.1, precision=precision,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches(), batch_size=None))  # type: ignore[arg-type]
    module.watched.assert_masked(NUM_BATCHES // 2)
    if precision == "32-true":
        clipped: list[Tensor] = []

        def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
            clipped.append(tokens)
            (loss_of(model, tokens) / 2).backward()
            if len(clipped) % 2 == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()

        by_hand = plain_loop(MaskSpec(mask_ratio=0.75), step=step)
        assert same([p.detach() for p in module.model.parameters()], by_hand)

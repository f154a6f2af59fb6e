"""The learning rate of every step is the schedule's; a setting of `train` either has an effect or is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gmt.errors import UserError
from gmt.methods.sft import Sft
from gmt.studies.opened import planned
from gmt.training.optimizers import OPTIMIZERS, default_groups, make_optimizer
from gmt.training.paradigms import Execution, TrainingInputs, trainer_of
from gmt.training.settings import SCHEDULES
from tests.models import train_settings
from tests.unit.training.test_optimizers import for_each_optimizer, prepared, settings_of, tiny_model, trained

PEAK = 2.0e-3
NUM_STEPS = 10
AFTER_WARMUP: dict[str, Callable[[float], float]] = {  # share of the steps after the warm-up -> share of the peak
    "constant": lambda done: 1,
    "constant_with_warmup": lambda done: 1,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def formula(schedule: str, warmup_ratio: float) -> list[float]:
    """Return the learning rate of each step."""
    warmup = math.ceil(NUM_STEPS * warmup_ratio)
    left = NUM_STEPS - warmup
    rising = [PEAK * step / warmup for step in range(warmup)]
    return rising + [PEAK * AFTER_WARMUP[schedule](step / left) for step in range(left)]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("schedule", "warmup_ratio"),
    [(schedule, ratio) for schedule in SCHEDULES for ratio in (0, 0.25, 0.9) if schedule != "constant" or not ratio],
)
def test_the_learning_rate_of_each_step_is_the_formulas(schedule: str, warmup_ratio: float, tmp_path: Path) -> None:
    inputs = TrainingInputs(
        model=tiny_model(1),
        tokenizer=prepared().reader.tokenizer,
        examples=prepared().examples,
        reference=tiny_model,
        base=tiny_model,
        method=Sft(name="sft"),
    )
    execution = Execution(device="cpu", sharding="none", checkpoints=tmp_path, checkpoint_every=4, log_every=1)
    settings = train_settings(learning_rate=PEAK, schedule=schedule, warmup_ratio=warmup_ratio)
    trainer: Any = trainer_of(inputs, settings, 1, execution, [])
    trainer.create_optimizer_and_scheduler(NUM_STEPS)
    rates = []
    for _ in range(NUM_STEPS):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates == pytest.approx(formula(schedule, warmup_ratio), rel=1e-12)


@pytest.mark.heavy
def test_a_training_steps_at_the_rates_of_its_schedule(tmp_path: Path) -> None:
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        trained(tmp_path, learning_rate=PEAK, schedule="constant_with_warmup", warmup_ratio=0.25)
    finally:
        hook.remove()
    assert rates == pytest.approx(formula("constant_with_warmup", 0.25), rel=1e-12)


@pytest.mark.parametrize("name", [name for name, kind in OPTIMIZERS.items() if not kind.averages_weights])
def test_a_warm_up_that_the_schedule_lacks_is_refused(name: str) -> None:
    settings = settings_of(name) | {"schedule": "constant"}
    with pytest.raises(
        UserError, match=r"^train\.warmup_ratio must be 0 where train\.schedule=constant, .*, got 0\.03$"
    ):
        train_settings(**settings)
    assert train_settings(**settings | {"warmup_ratio": 0}).warmup_ratio == 0


CHANGED: dict[str, dict[str, Any]] = {
    "learning_rate": {"lr": 0.02},
    "weight_decay": {"weight_decay": 0.5},
    "adam_beta1": {"betas": (0.5, 0.99)},
    "adam_beta2": {"betas": (0.9, 0.5)},
}


def weights_after_steps(name: str, momentum: float | None, **changes: Any) -> torch.Tensor:
    """Return all weights after four steps with random gradients."""
    model = tiny_model(1)
    settings = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)} | changes
    groups = default_groups(model, [n for n, p in model.named_parameters() if p.ndim > 1], **settings)
    optimizer: Any = make_optimizer(Sft(name="sft"), model, groups, name=name, momentum=momentum)
    if hasattr(optimizer, "train"):
        optimizer.train()
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.heavy
@for_each_optimizer()
def test_the_settings_without_effect_are_those_that_change_no_weight(name: str) -> None:
    settings = train_settings(**settings_of(name))
    plain = weights_after_steps(name, settings.momentum)
    same = {
        setting
        for setting, change in CHANGED.items()
        if torch.equal(weights_after_steps(name, settings.momentum, **change), plain)
    }
    assert same == set(settings.without_effect)
    if settings.momentum is not None:
        assert not torch.equal(weights_after_steps(name, 0.5), plain)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("overrides", "is_refused"),
    [
        (["train.optimizer=sgd", "train.momentum=0.9", "train.adam_beta2=0.99,0.999"], True),
        (["train.optimizer=adafactor", "train.adam_beta1=0.8", "train.learning_rate=0.1,0.2"], False),
        (["train.adam_beta1=0.8,0.9"], False),
    ],
)
def test_runs_that_differ_only_in_settings_without_effect_are_refused(
    overrides: list[str], is_refused: bool, tmp_path: Path
) -> None:
    study = ["study=quickstart", "method.mask_ratio=0.5", "seed=1", f"record.root={tmp_path}", *overrides]
    if not is_refused:
        assert planned(study, None)[0].runs
        return
    with pytest.raises(UserError) as caught:
        planned(study, None)
    rule = "must differ in more than train.adam_beta1 and train.adam_beta2, which have no effect where "
    assert caught.value.sentences
    assert all(sentence.endswith(rule + overrides[0]) for sentence in caught.value.sentences)

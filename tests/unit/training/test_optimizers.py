"""Each optimizer of `train.optimizer`, and those that methods make: exact, resumed bit for bit, or refused."""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.errors import Interrupted, UserError
from gmt.methods.cautious import Cautious
from gmt.methods.gradient_mask import GradientMask
from gmt.methods.layerwise import LayerwiseRates
from gmt.methods.protocol import Method
from gmt.methods.sft import Sft
from gmt.methods.spiel import Spiel
from gmt.optimizers.muon import MuonWithAdamW, split_groups
from gmt.runs.build import Run
from gmt.runs.prepare import Prepared, prepare
from gmt.training.checkpoints import last_whole_checkpoint
from gmt.training.control import Control, ControlCallback
from gmt.training.gather import gather
from gmt.training.optimizers import OPTIMIZERS, default_groups, is_installed, make_optimizer
from gmt.training.paradigms import Execution, TrainingInputs
from gmt.training.train import train
from tests.integration.test_prepare import run_of
from tests.models import train_settings

pytestmark = pytest.mark.heavy

NEEDED: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "muon": {"momentum": 0.95},
    "schedulefree": {"schedule": "constant", "warmup_ratio": 0.4},
}
SFT = Sft(name="sft")
GMT: dict[str, Any] = {
    "name": "gmt",
    "mask_ratio": 0.6,
    "signal": "gradient",
    "scope": "tensor",
    "refresh": 1,
    "mask_on": "gradient",
    "moments": "dense",
    "keep": "largest",
    "exclude": [],
    "excluded": "dense",
}


def for_each_optimizer(*usual: str) -> pytest.MarkDecorator:
    """Parametrizes a test by all optimizers; those not among `usual` are slow, unless none is named."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        missing = pytest.mark.skipif(not is_installed(name), reason="its package is not installed")
        return [missing] if not usual or name in usual else [missing, pytest.mark.slow]

    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in OPTIMIZERS])


@lru_cache
def prepared() -> Prepared:
    run: Run = run_of(Path("unused"), "task.train.words.num_examples=18")
    return prepare(run)


def tiny_model(layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers, "num_attention_heads": 2}
    vocabulary = prepared().reader.num_embeddings
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **sizes))


def trained(
    folder: Path,
    method: Method = SFT,
    *,
    stop_at: int | None = None,
    evaluate_every: int = 0,
    see: Callable[[LlamaForCausalLM, int], None] = lambda model, step: None,
    on_metrics: Callable[[int, Any], None] = lambda step, metrics: None,
    sharding: str = "none",
    **changes: Any,
) -> dict[str, Tensor]:
    """The weights after ten steps, in a folder with checkpoints after each fourth step."""
    torch.set_num_threads(1)  # more would wait for each other on tensors as small as these
    model, steps = tiny_model(), []
    settings = {"num_epochs": 2, "micro_batch_size": 2, "accumulation_steps": 2, "weight_decay": 0.1}

    def evaluate(step: int) -> float:
        see(model, step)
        return 0.0

    def should_stop() -> bool:
        steps.append(None)
        return len(steps) == stop_at

    train(
        TrainingInputs(
            model=model,
            tokenizer=prepared().reader.tokenizer,
            examples=prepared().examples,
            reference=tiny_model,
            base=tiny_model,
            method=method,
        ),
        train_settings(**settings | changes),
        seed=1,
        execution=Execution(device="cpu", sharding=sharding, checkpoints=folder, checkpoint_every=4, log_every=1),
        on_metrics=on_metrics,
        control=ControlCallback(Control(should_stop=should_stop), evaluate, evaluate_every),
    )
    return {name: p.detach().clone() for name, p in gather(model, tiny_model).named_parameters()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of `train` that an optimizer needs."""
    return {"optimizer": name, **NEEDED.get(name, {})}


@for_each_optimizer("muon", "schedulefree")
def test_a_stopped_and_evaluated_training_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    mask = GradientMask(**GMT)
    whole = trained(tmp_path / "whole", mask, **settings_of(name))
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", mask, stop_at=5, **settings_of(name))
    assert last_whole_checkpoint(tmp_path / "stopped") == tmp_path / "stopped" / "checkpoint-5"
    assert_same(trained(tmp_path / "stopped", mask, evaluate_every=2, **settings_of(name)), whole)
    start = dict(tiny_model().named_parameters())
    assert all(bool(torch.isfinite(w).all()) and not torch.equal(w, start[n]) for n, w in whole.items())


PACKED = GradientMask(**GMT | {"refresh": 3, "mask_on": "update", "moments": "packed", "age": "own"})


SPIEL = Spiel(name="spiel", mask_ratio=0.8, refresh=3, collected=2, replaced=0.5, replaced_first=1.0, exclude=[])


@pytest.mark.parametrize(
    "method",
    [Cautious(name="cautious"), LayerwiseRates(name="layerwise", rate_decay=0.5), PACKED, SPIEL],
    ids=lambda m: m.name,
)
def test_a_methods_own_optimizer_or_groups_resume_bit_for_bit(method: Method, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", method)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", method, stop_at=5)
    assert_same(trained(tmp_path / "stopped", method), whole)
    assert any(not torch.equal(w, whole[n]) for n, w in trained(tmp_path / "sft").items())


def test_packed_moments_have_the_bits_of_masked_ones_in_a_training(tmp_path: Path) -> None:
    """Without clipping, whose norm is that of the kept entries."""
    fixed = {"refresh": "once", "mask_on": "update"}
    ours, theirs = (
        trained(tmp_path / moments, GradientMask(**GMT | fixed | {"moments": moments}), max_grad_norm=0.0)
        for moments in ("packed", "masked")
    )
    assert_same(ours, theirs)


def test_packed_gradients_are_clipped_by_the_norm_of_kept_entries(tmp_path: Path) -> None:
    """The two trainings differ in their first step, by a factor: SGD would show it in the weights, Adam in moments."""
    norms: dict[float, list[float]] = {}
    states: dict[float, list[Tensor]] = {}
    for limit in (0.0, 1e-3):
        norms[limit], states[limit] = [], []

        def see(optimizer: Any, *_: Any, limit: float = limit) -> None:
            states[limit].append(torch.cat([s["exp_avg"] for s in optimizer.state.values()]).norm())

        handle = register_optimizer_step_post_hook(see)
        try:
            trained(
                tmp_path / str(limit),
                PACKED,
                max_grad_norm=limit,
                on_metrics=lambda _, metrics, limit=limit: norms[limit].append(metrics["train/grad_norm"]),
            )
        finally:
            handle.remove()
    assert norms[0.0][0] == norms[1e-3][0]
    beta1 = train_settings().adam_beta1
    assert states[0.0][0].item() == pytest.approx((1 - beta1) * norms[0.0][0], rel=1e-4)
    assert states[1e-3][0].item() == pytest.approx((1 - beta1) * 1e-3, rel=1e-2)


def test_groups_that_change_nothing_are_plain_training_bit_for_bit(tmp_path: Path) -> None:
    made = trained(tmp_path / "groups", LayerwiseRates(name="layerwise", rate_decay=1.0))
    assert_same(made, trained(tmp_path / "sft"))


@pytest.mark.skipif(not is_installed("schedulefree"), reason="its package is not installed")
def test_a_schedule_free_training_is_evaluated_by_the_average_of_its_steps(tmp_path: Path) -> None:
    """The mean over steps of z, weighted by the square of the largest rate so far (arXiv 2405.15682, Algorithm 1)."""
    on_the_way: dict[int, dict[str, Tensor]] = {}

    def see(model: LlamaForCausalLM, step: int) -> None:
        on_the_way[step] = {name: p.detach().clone() for name, p in model.named_parameters()}

    after: list[tuple[float, list[Tensor]]] = []

    def keep_z(optimizer: Any, *_: Any) -> None:
        rate = optimizer.param_groups[0]["lr_max"]
        after.append((rate**2, [optimizer.state[p]["z"].clone() for g in optimizer.param_groups for p in g["params"]]))

    handle = register_optimizer_step_post_hook(keep_z)
    try:
        final = trained(tmp_path, evaluate_every=4, see=see, **settings_of("schedulefree"))
    finally:
        handle.remove()
    rates = [math.sqrt(weight) / after[-1][0] ** 0.5 for weight, _ in after]
    assert rates == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])  # it warms up
    in_groups = [name for is_decayed in (True, False) for name in final if ("norm" not in name) == is_decayed]
    for number, of_step in ((4, on_the_way[4]), (8, on_the_way[8]), (10, final)):
        total = sum(weight for weight, _ in after[:number])
        for index, name in enumerate(in_groups):
            mean = sum(weight * zs[index] for weight, zs in after[:number]) / total
            torch.testing.assert_close(of_step[name], mean, rtol=1e-4, atol=1e-5)


def batch_loss(model: LlamaForCausalLM) -> Tensor:
    tokens = torch.arange(24).view(2, 12)
    loss: Tensor = model(input_ids=tokens, labels=tokens).loss
    return loss


def groups_of(model: nn.Module, lr: float = 0.01) -> list[dict[str, Any]]:
    decayed = [name for name, _ in model.named_parameters() if "norm" not in name]
    return default_groups(model, decayed, lr=lr, weight_decay=0.1, betas=(0.9, 0.99))


def test_muon_is_torchs_on_hidden_matrices_and_adamw_elsewhere_bit_for_bit() -> None:
    one, two = tiny_model(), tiny_model()
    ours = MuonWithAdamW(split_groups(one, groups_of(one)), momentum=0.9)
    named = dict(two.named_parameters())
    matrices = [p for n, p in named.items() if n.startswith("model.layers") and "norm" not in n]
    norms = [p for n, p in named.items() if "norm" in n]
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "fused": True}
    theirs = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([two.model.embed_tokens.weight], weight_decay=0.1, **settings),
        torch.optim.AdamW(norms, weight_decay=0.0, **settings),
    ]
    for _ in range(3):
        for model, steps in ((one, [ours]), (two, theirs)):
            model.zero_grad()
            batch_loss(model).backward()
            for optimizer in steps:
                optimizer.step()
    assert_same(dict(one.named_parameters()), named)
    with pytest.raises(UserError, match=r"train\.optimizer=muon needs a matrix of a hidden layer"):
        split_groups(one, [{"params": [one.model.embed_tokens.weight, one.model.norm.weight]}])


def test_layerwise_rates_fall_from_the_head_to_the_embeddings() -> None:
    model = tiny_model(layers=3)
    groups = LayerwiseRates(name="layerwise", rate_decay=0.5).groups(model, groups_of(model, lr=1.0))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert found["model.norm.weight"] == 1
    assert [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert found["model.layers.2.input_layernorm.weight"] == 0.5
    assert found["model.embed_tokens.weight"] == 0.0625
    assert {p["weight_decay"] for p in groups} == {0.1, 0.0}


class WrongGroups(Sft):
    """A method whose groups are wrong."""

    def __init__(self, change: Callable[[list[Any]], list[Any]]):
        object.__setattr__(self, "name", "wrong")
        object.__setattr__(self, "change", change)

    def groups(self, model: Any, groups: list[Any]) -> list[Any]:
        return self.change(groups)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda groups: groups[:1], "leave out model.layers.0.input_layernorm.weight"),
        (lambda groups: [*groups, groups[1]], "hold more than once model"),
        (lambda groups: [*groups, {"params": [nn.Parameter(torch.ones(1))]}], "does not train, one that the model"),
    ],
)
def test_groups_hold_each_parameter_that_trains_once(change: Any, sentence: str) -> None:
    model = tiny_model()
    with pytest.raises(UserError, match=sentence):
        make_optimizer(WrongGroups(change), model, groups_of(model), name="adamw", momentum=None)

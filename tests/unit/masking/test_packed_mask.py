"""moments=packed: the bits of moments=masked, without gradients and moments of masked entries."""

import io
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gmt.masking import Mask, MaskSpec, attach
from gmt.masking.engine import NonFiniteGradientError
from gmt.masking.given import set_keep_masks
from gmt.masking.low_rank import LowRankWeight
from gmt.optimizers.packed_adamw import PackedAdamW

SETTINGS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}
SIGNALS = ("gradient", "weight_times_gradient", "random", "weight_magnitude")
SCOPES = ("tensor", "layer", "global")
STEPS = 4


def a_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.embed = nn.Embedding(9, 6)
    model.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh()) for _ in range(2))
    model.register_parameter("tied", model.embed.weight)
    model.unused = nn.Linear(3, 3)
    return model


def backward(model: nn.Module, step: int) -> None:
    """Two micro-batches."""
    for micro in range(2):
        x = model.embed(torch.arange(12).view(3, 4).add(2 * step + micro) % 8)
        for layer in model.layers:
            x = layer(x)
        (x @ model.tied.t()).logsumexp(-1).sum().backward()


def spec_of(**more: Any) -> MaskSpec:
    return MaskSpec(**{"mask_ratio": 0.7, "refresh": "once", "mask_on": "update", "moments": "packed"} | more)


def optimizer_of(model: nn.Module, spec: MaskSpec, age: str) -> torch.optim.Optimizer:
    groups = [{"params": [p for p in model.parameters() if (p.ndim > 1) == many]} for many in (True, False)]
    if spec.moments == "packed":
        return PackedAdamW(groups, **SETTINGS, age=age)
    return torch.optim.AdamW(groups, fused=True, **SETTINGS)


class Training:
    """A training that can go through a checkpoint."""

    def __init__(self, spec: MaskSpec, *, age: str = "global", facts_every: int = 2):
        self._spec, self._age, self._facts_every = spec, age, facts_every
        self._make()

    def _make(self, state: dict[str, Any] | None = None) -> None:
        self.model = a_model()
        self.optimizer = optimizer_of(self.model, self._spec, self._age)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.mask = attach(self.model, self.optimizer, self._spec, seed=3, facts_every=self._facts_every)
        if state is not None:
            self.mask.load_state_dict(state["mask"])

    def through_a_checkpoint(self) -> None:
        file = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "mask": self.mask}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        self._make(torch.load(io.BytesIO(file.getvalue()), weights_only=True))

    def steps(self, first: int = 0, last: int = STEPS) -> Iterator[int]:
        for step in range(first, last):
            backward(self.model, step)
            yield step
            self.optimizer.step()
            self.model.zero_grad()

    def run(self, first: int = 0, last: int = STEPS) -> "Training":
        list(self.steps(first, last))
        return self


def assert_same(a: Training, b: Training) -> None:
    for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("signal", "scope"), list(itertools.product(SIGNALS, SCOPES)))
def test_a_fixed_support_has_the_bits_of_masked_moments(signal: str, scope: str) -> None:
    ours = Training(spec_of(signal=signal, scope=scope)).run()
    theirs = Training(spec_of(signal=signal, scope=scope, moments="masked")).run()
    assert_same(ours, theirs)
    assert vars(ours.mask.facts().measured.model) == pytest.approx(vars(theirs.mask.facts().measured.model))  # type: ignore[union-attr]
    assert ours.mask.facts().density == theirs.mask.facts().density  # type: ignore[union-attr]
    for p, q in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        if "support" in (state := ours.optimizer.state[p]) and "exp_avg" in state:
            whole = torch.zeros(p.numel())
            ours.optimizer.support(p).scatter_(whole, state["exp_avg"])  # type: ignore[attr-defined]
            assert torch.equal(whole, theirs.optimizer.state[q]["exp_avg"].flatten())


@pytest.mark.parametrize(("signal", "age"), [("gradient", "global"), ("random", "own"), ("weight_magnitude", "own")])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_refreshed_support_goes_through_a_checkpoint(signal: str, age: str, stop: int) -> None:
    whole = Training(spec_of(signal=signal, refresh=2), age=age).run()
    cut = Training(spec_of(signal=signal, refresh=2), age=age).run(last=stop)
    cut.through_a_checkpoint()
    assert_same(cut.run(first=stop), whole)
    assert cut.mask.facts().measured == whole.mask.facts().measured  # type: ignore[union-attr]


@pytest.mark.parametrize(("signal", "first"), [("random", False), ("weight_magnitude", False), ("gradient", True)])
def test_no_gradient_is_dense_where_the_support_is_chosen_early(signal: str, first: bool) -> None:
    training = Training(spec_of(signal=signal, first_micro_batch=first, refresh=3))
    for _ in training.steps():
        assert all(p.grad is None for p in training.model.parameters())


def test_gradients_are_dense_only_at_the_steps_that_rank_by_them() -> None:
    training = Training(spec_of(refresh=3))
    for step in training.steps():
        assert any(p.grad is not None for p in training.model.parameters()) == (step % 3 == 0)


def test_the_first_micro_batch_ranks() -> None:
    """The other way: the gradient of one micro-batch ranks a mask that keeps dense moments."""
    training = Training(spec_of(first_micro_batch=True), facts_every=0)
    x = training.model.embed(torch.arange(12).view(3, 4) % 8)
    for layer in training.model.layers:
        x = layer(x)
    (x @ training.model.tied.t()).logsumexp(-1).sum().backward()
    other = Training(spec_of(), facts_every=0)
    for p, q in zip(training.model.parameters(), other.model.parameters(), strict=True):
        if (support := training.optimizer.support(p)) is not None:  # type: ignore[attr-defined]
            x = other.model.embed(torch.arange(12).view(3, 4) % 8)
            for layer in other.model.layers:
                x = layer(x)
            other.model.zero_grad()
            (x @ other.model.tied.t()).logsumexp(-1).sum().backward()
            assert q.grad is not None
            kept = support.mask()
            assert q.grad.flatten()[kept].abs().min() > q.grad.flatten()[~kept].abs().max()


def test_masked_entries_never_move_and_the_others_do() -> None:
    training = Training(spec_of(mask_ratio=0.9)).run()
    for p, q in zip(training.model.parameters(), a_model().parameters(), strict=True):
        if (support := training.optimizer.support(p)) is not None:  # type: ignore[attr-defined]
            assert torch.equal((p != q).flatten(), support.mask())


def test_ratio_zero_is_torchs_fused_adamw() -> None:
    plain = a_model()
    optimizer = torch.optim.AdamW(plain.parameters(), fused=True, **SETTINGS)
    for step in range(STEPS):
        backward(plain, step)
        optimizer.step()
        plain.zero_grad()
    ours = Training(spec_of(mask_ratio=0)).run()
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("excluded", ["dense", "frozen"])
def test_excluded_parameters_train_whole_or_not_at_all(excluded: str) -> None:
    more = {"exclude": ("tied", "*.1.*"), "excluded": excluded}
    ours = Training(spec_of(**more)).run()
    assert_same(ours, Training(spec_of(moments="masked", **more)).run())
    assert torch.equal(ours.model.embed.weight, a_model().embed.weight) == (excluded == "frozen")


def test_supports_can_be_given() -> None:
    trainings = [Training(spec_of(moments=moments)) for moments in ("packed", "masked")]
    for training in trainings:
        names = {name: p for name, p in training.model.named_parameters() if not name.startswith("unused")}
        keeps = {name: torch.arange(p.numel()) % 3 == 0 for name, p in names.items()}
        set_keep_masks(training.mask, keeps)
        training.run()
    assert_same(*trainings)


def test_a_gradient_that_is_no_number_is_refused() -> None:
    training = Training(spec_of())
    for step in training.steps():
        if step == 1:
            next(training.optimizer.gathered())[1].fill_(torch.nan)  # type: ignore[attr-defined]
            break
    with pytest.raises(NonFiniteGradientError, match=r"the gradient of tied holds NaN or Inf at step 2"):
        training.optimizer.step()


def test_detach_leaves_a_plain_optimizer_of_these_supports() -> None:
    training = Training(spec_of()).run(last=2)
    training.mask.detach()
    backward(training.model, 2)
    assert all(p.grad is not None for p in training.model.embed.parameters())
    assert not training.optimizer._optimizer_step_pre_hooks


def test_another_optimizer_is_refused() -> None:
    model = a_model()
    with pytest.raises(ValueError, match=r"moments=packed needs the optimizer .*PackedAdamW.*, got AdamW"):
        attach(model, torch.optim.AdamW(model.parameters()), spec_of())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mask_on": "gradient"}, "mask_on must be update where moments=packed, got 'gradient'"),
        ({"refresh": 1}, "refresh must be above 1 or once where moments=packed"),
        ({"signal": "first_moment"}, "signal must not be first_moment where moments=packed"),
        ({"signal": "accumulated_gradient"}, "signal must not be accumulated_gradient where moments=packed"),
        ({"first_micro_batch": True, "scope": "global"}, "first_micro_batch needs scope=tensor"),
        (
            {"first_micro_batch": True, "signal": "random"},
            "first_micro_batch needs .* a signal that reads the gradient",
        ),
        ({"first_micro_batch": True, "moments": "masked"}, "first_micro_batch must be false where moments=masked"),
        ({"first_micro_batch": 1}, "first_micro_batch must be true or false, got 1"),
    ],
)
def test_what_can_not_be_packed_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        spec_of(**settings)


def test_it_is_a_mask() -> None:
    assert isinstance(Training(spec_of()).mask, Mask)


@pytest.mark.parametrize(
    "more",
    [
        {"grain": "row", "signal": "gradient"},
        {"grain": "row", "signal": "random"},
        {"grain": "tensor", "signal": "weight_magnitude", "scope": "global"},
        {"parameters": "linear", "signal": LowRankWeight(rank=2, svd="exact")},
        {"parameters": "linear_alone", "grain": "column", "signal": "large_gradient_small_weight"},
    ],
)
def test_units_and_signals_of_whole_parameters_can_be_packed(more: dict[str, Any]) -> None:
    assert_same(Training(spec_of(**more)).run(), Training(spec_of(**more, moments="masked")).run())
    cut = Training(spec_of(**more, refresh=2)).run(last=3)
    cut.through_a_checkpoint()
    assert_same(cut.run(first=3), Training(spec_of(**more, refresh=2)).run())

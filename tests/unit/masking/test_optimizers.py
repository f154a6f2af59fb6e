"""The mask on every optimizer of torch and schedulefree with each of its switches, against its own state."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.masking.spec import MASK_ON, MOMENTS
from tests.signals import WITHOUT_ACTIVATIONS
from tests.unit.masking.every_optimizer import SCHEDULE_FREE, case_id, cases, optimizer_classes

CASES = cases()
STEPS = 4
RATIO = 0.5
AVERAGES_WEIGHTS, FACTORS_MOMENTS = ("ASGD", *SCHEDULE_FREE), ("Adafactor",)
HAS_FIRST_MOMENT = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SGD", "Muon")
# What is kept of single entries, and what it begins with: written down by hand, from torch's documentation.
ENTRY_STATES: dict[str, dict[str, float]] = {
    "Adam": {"exp_avg": 0.0, "exp_avg_sq": 0.0, "max_exp_avg_sq": 0.0},
    "Adamax": {"exp_avg": 0.0, "exp_inf": 0.0},
    "Adadelta": {"square_avg": 0.0, "acc_delta": 0.0},
    "Adagrad": {"sum": 0.0},
    "Muon": {"momentum_buffer": 0.0},
    "RMSprop": {"square_avg": 0.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
    "Rprop": {"prev": 0.0, "step_size": 0.05},
    "SGD": {"momentum_buffer": 0.0},
}
ENTRY_STATES |= dict.fromkeys(("AdamW", "NAdam", "RAdam"), ENTRY_STATES["Adam"])


def a_model(kind: str) -> nn.Module:
    """A matrix, and for what takes more than matrices a vector and a scalar."""
    model = nn.Module()
    model.matrix = nn.Parameter(torch.linspace(-1, 1.3, 30).view(5, 6))
    if kind != "Muon":
        model.vector, model.scalar = nn.Parameter(torch.linspace(0.5, -2, 9)), nn.Parameter(torch.tensor(1.5))
    return model


def give_gradients(model: nn.Module, step: int) -> None:
    """The same at each call; far from each other, so that the order of sums decides no mask."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator) * (p.ndim > 0 or step != 2)  # so a scalar is masked once


def optimizer_of(model: nn.Module, case: tuple[str, dict[str, Any]]) -> torch.optim.Optimizer:
    optimizer: Any = optimizer_classes()[case[0]](model.parameters(), **case[1])
    if case[0] in SCHEDULE_FREE:
        optimizer.train()
    return optimizer  # type: ignore[no-any-return]


class Run:
    """A model that trains with a mask, which looks at the gradients that its optimizer is given."""

    def __init__(self, case: tuple[str, dict[str, Any]], spec: MaskSpec | None):
        self.model = a_model(case[0])
        self.optimizer = optimizer_of(self.model, case)
        self.case, self.given = case, dict[str, Tensor]()
        if spec:
            attach(self.model, self.optimizer, spec, seed=3, facts_every=0)
        self.optimizer.register_step_pre_hook(self._look)  # after the mask's

    def _look(self, *_: Any) -> None:
        self.given = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def twin(self) -> "Run":
        """The same model, weights and state, without a mask."""
        twin = Run(self.case, None)
        twin.model.load_state_dict(self.model.state_dict())
        twin.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return twin

    def step(self, step: int) -> None:
        give_gradients(self.model, step)
        self.optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def state(self, name: str) -> dict[str, Tensor]:
        state = self.optimizer.state[self.model.get_parameter(name)]
        return {k: v.detach().clone() for k, v in state.items() if isinstance(v, Tensor)}


def kept(scores: Tensor) -> Tensor:
    """The larger half, the middle one of an odd number included; as MaskSpec has it, a zero never stays."""
    magnitudes = scores.abs().flatten()
    threshold = magnitudes.sort().values[int(RATIO * len(magnitudes))]
    return (scores.abs() >= threshold) & (scores != 0)


def places(values: Tensor) -> Tensor:
    """From 1 on, of the smallest value first."""
    place_N = torch.empty(values.numel())
    place_N[values.flatten().sort(stable=True).indices] = torch.arange(1.0, values.numel() + 1)
    return place_N.view(values.shape)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_ratio_zero_is_the_optimizer_itself_bit_for_bit(case: tuple[str, dict[str, Any]]) -> None:
    plain = Run(case, None)
    for step in range(2):
        plain.step(step)
    for signal, (mask_on, moments) in zip(WITHOUT_ACTIVATIONS, itertools.cycle(itertools.product(MASK_ON, MOMENTS))):
        masked = Run(case, MaskSpec(mask_ratio=0, signal=signal, mask_on=mask_on, moments=moments))
        for step in range(2):
            masked.step(step)
        for name, weight in plain.weights().items():
            assert torch.equal(weight, masked.weights()[name])
            assert all(torch.equal(v, masked.state(name)[k]) for k, v in plain.state(name).items())


@pytest.mark.parametrize("signal", [s for s in WITHOUT_ACTIVATIONS if s != "random"])
@pytest.mark.parametrize("name", optimizer_classes())
def test_a_signal_is_what_the_optimizer_itself_has(name: str, signal: str) -> None:
    mine = [case for case in CASES if case[0] == name]
    for case in mine if signal == "first_moment" else mine[-1:]:  # the others need nothing of the optimizer
        assert_signal(case, signal)


def assert_signal(case: tuple[str, dict[str, Any]], signal: str) -> None:
    spec = MaskSpec(mask_ratio=RATIO, signal=signal, refresh=2 if signal == "accumulated_gradient" else 1)
    if signal == "first_moment" and (
        case[0] not in HAS_FIRST_MOMENT or (case[0] == "SGD" and "momentum" not in case[1])
    ):
        with pytest.raises(ValueError, match=f"signal=first_moment needs .* running sum .*, {case[0]} keeps none"):
            Run(case, spec)
        return
    run = Run(case, spec)
    sums: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for step in range(STEPS):
        twin, weights = run.twin(), run.weights()
        twin.step(step)
        run.step(step)
        for name, gradient in twin.given.items():
            sums[name] = sums.get(name, 0) + gradient
            moment = twin.state(name).get("exp_avg", twin.state(name).get("momentum_buffer"))
            score = {
                "gradient": gradient,
                "accumulated_gradient": sums[name],
                "weight_magnitude": weights[name],
                "weight_times_gradient": weights[name] * gradient,
                "first_moment": moment,
                "squared_gradient": gradient**2,
                "gradient_over_weight": gradient.abs() / (weights[name].abs() + 1e-8),
                "large_gradient_small_weight": (places(gradient.abs()) + places(-weights[name].abs()))
                * (gradient != 0),
            }[signal]
            assert score is not None
            if step % spec.refresh == 0:
                masks[name], sums[name] = kept(score), torch.zeros_like(score)
            assert torch.equal(run.given[name], gradient * masks[name]), (name, step)


@pytest.mark.parametrize("mask_on", ["gradient", "update"])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_masked_moments_are_those_of_entries_whose_step_did_not_happen(
    case: tuple[str, dict[str, Any]], mask_on: str
) -> None:
    spec = MaskSpec(mask_ratio=RATIO, mask_on=mask_on, moments="masked")
    if refusal := moments_refusal(case):
        with pytest.raises(ValueError, match=refusal):
            Run(case, spec)
        return
    run = Run(case, spec)
    begins = ENTRY_STATES[case[0]] | (
        {"sum": case[1].get("initial_accumulator_value", 0.0)} if case[0] == "Adagrad" else {}
    )
    for step in range(STEPS):
        before = {name: run.state(name) for name in run.weights()}
        twin, weights = run.twin(), run.weights()
        give_gradients(twin.model, step)
        masks = {name: kept(p.grad) for name, p in twin.model.named_parameters()}
        if mask_on == "gradient":
            for name, p in twin.model.named_parameters():
                p.grad *= masks[name]
        twin.optimizer.step()
        run.step(step)
        for name, mask in masks.items():
            after, expected = run.state(name), twin.state(name)
            assert after.keys() == expected.keys()
            for key, value in after.items():
                if key in begins:
                    old = before[name].get(key, torch.full_like(value, begins[key]))
                    assert torch.equal(value, torch.where(mask, expected[key], old)), (name, key, step)
                else:  # of the whole parameter, also where that is a scalar itself
                    assert torch.equal(value, expected[key]), (name, key, step)
            moves = torch.ones_like(mask) if mask_on == "gradient" else mask
            assert torch.equal(run.weights()[name], torch.where(moves, twin.weights()[name], weights[name])), name


def moments_refusal(case: tuple[str, dict[str, Any]]) -> str | None:
    if case[0] in AVERAGES_WEIGHTS:
        return f"can't hold with {case[0]}, which averages the weights apart from the mask"
    if case[0] in FACTORS_MOMENTS:
        return f"have their parameter's shape, got (row|col)_var of {case[0]} for matrix"
    if case[0] == "SGD" and "momentum" not in case[1]:
        return "needs an optimizer that keeps moments entry by entry, SGD keeps none"
    return None


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_what_an_update_mask_holds_stands_still(case: tuple[str, dict[str, Any]]) -> None:
    spec = MaskSpec(mask_ratio=RATIO, mask_on="update", refresh="once")
    if case[0] in AVERAGES_WEIGHTS:
        with pytest.raises(ValueError, match="mask_on=update can't hold with"):
            Run(case, spec)
        return
    run = Run(case, spec)
    before = run.weights()
    for step in range(STEPS):
        run.step(step)
    for name, weight in run.weights().items():
        assert weight.numel() // 2 <= int((weight == before[name]).sum()) < weight.numel(), name


@pytest.mark.parametrize("name", optimizer_classes())
def test_a_step_that_autograd_records_is_refused(name: str) -> None:
    model = a_model(name)
    optimizer = optimizer_classes()[name](model.parameters(), lr=0.1)
    if "differentiable" not in optimizer.param_groups[0]:
        return
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(ValueError, match="differentiable=True records a step for autograd"):
        attach(model, optimizer, MaskSpec(mask_ratio=0.5))

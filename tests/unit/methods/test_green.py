"""GreenTrainer: the best tensors that a budget of operations allows train, and nothing is computed of the others."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from gmt.errors import UserError
from gmt.methods.green import ChosenTensors, GreenTrainer, importance
from gmt.methods.probing import gradients
from gmt.methods.tensor_choice import cheapest, choose
from gmt.methods.tensor_costs import TensorCosts
from tests.model_families import LIKE_LLAMA, model_of
from tests.refusals import assert_refused

TENSORS = st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12)


def costs_of(tensors: list[tuple[int, int, int]]) -> tuple[list[float], list[int], list[int]]:
    """Return importances, costs of weight gradients, and the costs of the path above each tensor."""
    importances, of_weights, of_input = (list(column) for column in zip(*tensors, strict=True))
    return [float(i) for i in importances], of_weights, [sum(of_input[k + 1 :]) for k in range(len(tensors))]


def cost(chosen: Any, of_weights: list[int], of_path: list[int]) -> int:
    return of_path[list(chosen).index(True)] + sum(itertools.compress(of_weights, chosen))


@settings(max_examples=50)
@given(TENSORS, st.integers(0, 400))
def test_the_programme_is_as_good_as_trying_all_sets(tensors: list[tuple[int, int, int]], more: int) -> None:
    importances, of_weights, of_path = costs_of(tensors)
    budget = cheapest(of_weights, of_path) + more
    chosen = choose(importances, of_weights, of_path, budget)
    assert any(chosen)
    assert cost(chosen, of_weights, of_path) <= budget
    fitting = [
        sum(itertools.compress(importances, each))
        for each in itertools.product([False, True], repeat=len(tensors))
        if any(each) and cost(each, of_weights, of_path) <= budget
    ]
    assert sum(itertools.compress(importances, chosen)) == max(fitting)


@given(TENSORS, st.integers(0, 400), st.integers(1, 20))
def test_a_coarse_programme_keeps_the_budget(tensors: list[tuple[int, int, int]], more: int, resolution: int) -> None:
    importances, of_weights, of_path = costs_of(tensors)
    budget = cheapest(of_weights, of_path) + more
    chosen = choose(importances, of_weights, of_path, budget, resolution=resolution)
    assert cost(chosen, of_weights, of_path) <= budget


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LIKE_LLAMA | changes)).train()


def batches(size: int) -> Any:
    tokens = torch.arange(48).view(4, 12) % 20
    rows = {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)}
    for i in range(0, 4, size):
        yield {name: x[i : i + size] for name, x in rows.items()}


def green(budget: float, refresh_epochs: int = 2) -> GreenTrainer:
    return GreenTrainer(name="green", budget=budget, refresh_epochs=refresh_epochs, num_examples=4)


def attached(model: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> ChosenTensors:
    return green(**settings).attach_with_examples(model, optimizer, seed=1, facts_every=0, batches=batches)


def operations(model: nn.Module) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**next(batches(4)), use_cache=False).loss.backward()
    return int(counter.get_total_flops())


MODELS = {
    "llama": lambda: llama(num_key_value_heads=1),
    "tied": lambda: llama(tie_word_embeddings=True, attention_bias=True),
    "eager": lambda: llama(attn_implementation="eager"),
    "gpt2": lambda: model_of("gpt2"),
    "opt": lambda: model_of("opt"),
    "gpt_neox": lambda: model_of("gpt_neox"),
}

SLOW = {"eager", "opt", "gpt_neox"}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) if k in SLOW else k for k in MODELS])
def test_a_step_takes_at_most_the_budget_and_computes_nothing_of_other_tensors(kind: str) -> None:
    model: Any = copy.deepcopy(MODELS[kind]()).train()
    full = operations(model)
    model.zero_grad()
    shares, asked = [], [0.42, 0.5, 0.6, 0.7, 0.85, 1.0]
    for budget in asked:
        tensors = attached(model, torch.optim.AdamW(model.parameters(), lr=0.01), budget=budget)
        tensors.begin_epoch(0)
        chosen = {name for name, p in model.named_parameters() if p.requires_grad}
        assert chosen
        shares.append(operations(model) / full)
        assert {name for name, p in model.named_parameters() if p.grad is not None} == chosen
        assert shares[-1] <= tensors.facts()["operations"] + 1e-9 <= budget + 2e-9
        assert tensors.num_trained() == sum(p.numel() for p in model.parameters() if p.requires_grad)
        tensors.detach()
        model.zero_grad()
        assert all(p.requires_grad for p in model.parameters())
    assert shares[-1] - shares[0] > 0.2  # a larger budget is used
    with pytest.raises(UserError, match=r"method\.budget must be at least 0\.\d{4} for this model, .*, got 0\.2"):
        attached(model, torch.optim.AdamW(model.parameters()), budget=0.2)


def test_the_least_budget_that_a_refusal_names_is_taken() -> None:
    model = llama(intermediate_size=52)
    with pytest.raises(UserError, match=r"at least 0\.\d{4} for this model") as refused:
        attached(model, torch.optim.AdamW(model.parameters()), budget=0.2)
    named = float(str(refused.value).split("at least ")[1].split(" ")[0])
    for budget in (named, 1.0):
        attached(model, torch.optim.AdamW(model.parameters()), budget=budget).begin_epoch(0)
    with pytest.raises(UserError):
        attached(model, torch.optim.AdamW(model.parameters()), budget=named - 1e-4)


@pytest.mark.parametrize("floor", [29, 57, 58])
def test_a_budget_that_is_the_floor_leaves_the_cheapest_tensor(floor: int) -> None:
    """In floating point 0.29, 0.57 and 0.58 of 100 are less than 29, 57 and 58."""
    costs = TensorCosts(parameters=[], of_weights=[10], of_path=[9], forward=floor - 19, total=100)
    budget = green(floor / 100).operations_of(costs) - costs.forward
    assert choose([1.0], costs.of_weights, costs.of_path, budget) == [True]


def test_the_budget_holds_over_all_rows_of_the_probe() -> None:
    """The first rows are short, and the operations of attention grow with the square of the length."""

    def of_two_lengths(size: int) -> Any:
        for width in (4, 60):
            tokens = torch.arange(8 * width).view(8, width) % 20
            yield {"input_ids": tokens, "labels": tokens}

    def operations_of_all() -> int:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            for batch in of_two_lengths(8):
                model(**batch, use_cache=False).loss.backward()
        return int(counter.get_total_flops())

    model = llama()
    full = operations_of_all()
    for budget in (0.5, 0.7, 0.9):
        tensors = green(budget).attach_with_examples(
            model, torch.optim.AdamW(model.parameters()), seed=1, facts_every=0, batches=of_two_lengths
        )
        tensors.begin_epoch(0)
        assert operations_of_all() / full <= tensors.facts()["operations"] <= budget
        tensors.detach()


@pytest.mark.parametrize("is_adamw", [True, False])
def test_the_probe_leaves_weights_gradients_and_the_optimizer_bit_equal(is_adamw: bool) -> None:
    model = llama()
    kind: Any = torch.optim.AdamW if is_adamw else torch.optim.SGD
    more = {"weight_decay": 0.1} if is_adamw else {"momentum": 0.9}
    optimizer = kind(model.parameters(), lr=0.01, **more)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    hooked: list[int] = []
    optimizer.register_step_post_hook(lambda *_: hooked.append(1))
    for step in range(3):
        optimizer.zero_grad()
        model(**next(batches(4))).loss.backward()
        if step < 2:
            optimizer.step()
            schedule.step()
    parameters = list(model.parameters())
    parameters[3].requires_grad_(False)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in parameters]))
    random_state = torch.get_rng_state()
    found = importance(model, optimizer, parameters, batches)
    assert max(map(abs, found)) == 1
    assert _equal(before, (model.state_dict(), optimizer.state_dict(), [p.grad for p in parameters]))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (len(hooked), model.training, parameters[3].requires_grad) == (2, True, False)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def test_the_importance_of_a_step_of_sgd_is_the_product_of_two_gradients() -> None:
    """At the peak rate, though a warm-up begins at zero."""
    model, rate = llama(), 0.1
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=rate)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    found = importance(model, optimizer, parameters, batches)
    first = gradients(model, parameters, batches)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, gradient in zip(moved.parameters(), first, strict=True):
            p -= rate * gradient
    second = gradients(moved, list(moved.parameters()), batches)
    expected = torch.stack([rate * (a * b).sum() for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(torch.tensor(found), expected / expected.abs().max(), rtol=1e-3, atol=1e-5)


def test_gradients_of_the_probe_are_those_of_the_whole_mini_batch() -> None:
    model = llama()
    parameters = list(model.parameters())
    found = gradients(model, parameters, batches)
    in_parts = gradients(model, parameters, lambda size: batches(1))
    model(**next(batches(4))).loss.backward()
    for p, a, b in zip(parameters, found, in_parts, strict=True):
        torch.testing.assert_close(a, p.grad)
        torch.testing.assert_close(b, p.grad)


def test_tensors_are_chosen_anew_every_few_epochs_and_a_resumed_training_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = itertools.count()

    def made_up(model: Any, optimizer: Any, parameters: Any, batches: Any) -> list[float]:
        generator = torch.Generator().manual_seed(next(drawn))
        return torch.rand(len(parameters), generator=generator).tolist()

    monkeypatch.setattr("gmt.methods.green.importance", made_up)
    model = llama()
    tensors = attached(model, torch.optim.AdamW(model.parameters()), budget=0.6)

    def chosen_in(epoch: int, of: ChosenTensors) -> set[str]:
        of.begin_epoch(epoch)
        return {name for name, p in model.named_parameters() if p.requires_grad}

    first, second, third = (chosen_in(epoch, tensors) for epoch in range(3))
    assert first == second != third
    named = dict(model.named_parameters())
    assert tensors.num_touched() == sum(named[name].numel() for name in first | third)
    state = tensors.state_dict()
    tensors.detach()
    resumed = attached(model, torch.optim.AdamW(model.parameters()), budget=0.6)
    resumed.load_state_dict(state)
    assert chosen_in(2, resumed) == chosen_in(3, resumed) == third
    assert resumed.num_touched() == sum(named[name].numel() for name in first | third)
    assert chosen_in(4, resumed) != third
    assert resumed.facts()["num_choices"] == 3


def test_a_module_that_multiplies_by_several_matrices_is_refused() -> None:
    model: Any = copy.deepcopy(model_of("mixtral"))
    with pytest.raises(UserError, match=r"method=green needs modules that multiply by one matrix each, and a \w+ of"):
        attached(model, torch.optim.AdamW(model.parameters()), budget=0.5)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method.budget=0"], r"method\.budget must lie in \(0, 1\], got 0"),
        (["method.budget=1.5"], r"method\.budget must lie in \(0, 1\], got 1\.5"),
        (["method.refresh_epochs=0"], r"method\.refresh_epochs must be a whole number of at least 1, got 0"),
        (["method.num_examples=0"], r"method\.num_examples must be a whole number of at least 1, got 0"),
        (
            ["train.optimizer=adafactor"],
            r"train\.optimizer must be one of adamw, sgd for method green, .* got adafactor",
        ),
        (["task=ultrafeedback", "train=dpo"], r"train\.paradigm must be sft for method green, which reads examples"),
        (
            ["resources.sharding=fsdp", "resources.workers=2"],
            r"resources\.sharding must be none for method green, which probes whole tensors, got fsdp",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_when_a_run_is_planned(overrides: list[str], sentence: str) -> None:
    assert_refused(sentence, "method=green", *overrides)

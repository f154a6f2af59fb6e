"""What a mask can't work with is refused at attach, in one sentence."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach

SPEC = MaskSpec(mask_ratio=0.5)


def refusal(model: nn.Module, optimizer: object, spec: MaskSpec = SPEC) -> str:
    """The sentence by which a mask is refused; nothing is left on the optimizer."""
    hooks = len(getattr(optimizer, "_optimizer_step_pre_hooks", ()))
    with pytest.raises(ValueError, match=r"\w") as caught:
        attach(model, optimizer, spec)  # type: ignore[arg-type]
    assert len(getattr(optimizer, "_optimizer_step_pre_hooks", ())) == hooks
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_lbfgs_and_other_closures_that_are_called_again() -> None:
    model = nn.Linear(2, 2)
    assert refusal(model, torch.optim.LBFGS(model.parameters())).startswith(
        "LBFGS evaluates the gradient several times in a step"
    )


def test_sparse_gradients() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    assert refusal(model, sgd(model)).startswith("the embedding 0 has sparse=True")
    assert refusal(model, torch.optim.SparseAdam(model.parameters())).startswith("SparseAdam takes sparse gradients")


def test_sparse_gradients_of_other_modules_are_refused_at_their_step() -> None:
    weight = nn.Linear(2, 2, bias=False)
    optimizer = sgd(weight)
    attach(weight, optimizer, SPEC)
    weight.weight.grad = torch.eye(2).to_sparse()
    with pytest.raises(ValueError, match="the gradient of weight is sparse"):
        optimizer.step()


def test_deepspeed() -> None:
    engine = type("DeepSpeedEngine", (nn.Linear,), {"__module__": "deepspeed.runtime.engine"})(2, 2)
    assert refusal(engine, sgd(engine)).startswith("DeepSpeed hides the gradients")
    zero = type("DeepSpeedZeroOptimizer", (), {"__module__": "deepspeed.runtime.zero.stage_1_and_2"})()
    assert refusal(nn.Linear(2, 2), zero).startswith("DeepSpeed hides the gradients")


def test_fsdp1() -> None:
    wrapped = type("FullyShardedDataParallel", (nn.Linear,), {"__module__": "torch.distributed.fsdp"})(2, 2)
    model = nn.Sequential(wrapped)
    assert refusal(model, sgd(model)).startswith("FSDP1 flattens its parameters")


def test_zero_redundancy() -> None:
    model = nn.Linear(2, 2)
    kind = type("ZeroRedundancyOptimizer", (torch.optim.SGD,), {})
    assert refusal(model, kind(model.parameters(), lr=0.1)).startswith(
        "ZeroRedundancyOptimizer steps through another optimizer"
    )


def test_something_that_is_no_torch_optimizer() -> None:
    assert refusal(nn.Linear(2, 2), types.SimpleNamespace()).startswith(
        "optimizer must be a torch.optim.Optimizer, got types.SimpleName"
    )


def test_parameters_that_the_model_does_not_name() -> None:
    assert refusal(nn.Linear(2, 2), sgd(nn.Linear(2, 2))).startswith(
        "the optimizer holds 2 parameters that the model does not have"
    )


def test_double_precision() -> None:
    model = nn.Linear(2, 2).double()
    assert refusal(model, sgd(model)).startswith(
        "weight must be float32, bfloat16 or float16 to be ranked, got torch.float64"
    )


def test_patterns_that_fit_nothing() -> None:
    model = nn.Linear(2, 2)
    spec = MaskSpec(mask_ratio=0.5, exclude=("*.bias",))
    assert refusal(model, sgd(model), spec).startswith("exclude: no parameter of the optimizer has a name like *.bias")


def test_a_first_moment_that_the_optimizer_does_not_keep() -> None:
    model = nn.Linear(2, 2)
    spec = MaskSpec(mask_ratio=0.5, signal="first_moment")
    assert refusal(model, sgd(model), spec).startswith(
        "signal=first_moment needs an optimizer that keeps a running sum of its gradients, SGD keeps none"
    )


def test_moments_of_an_optimizer_without_any() -> None:
    model = nn.Linear(2, 2)
    spec = MaskSpec(mask_ratio=0.5, moments="masked")
    assert refusal(model, sgd(model), spec) == (
        "moments=masked needs an optimizer that keeps moments entry by entry, SGD keeps none"
    )


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free SGD: weights in training are y, in evaluation x, and the state's z begins as the weights."""

    def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                p.data.lerp_(z, 1 / group["k"]).sub_(p.grad, alpha=group["lr"] * (1 - group["beta"]))
                z.sub_(p.grad, alpha=group["lr"])

    def train(self) -> None:
        """Puts y in place; left out here."""

    def eval(self) -> None:
        """Puts x in place; left out here."""


@pytest.mark.parametrize("kind", [ScheduleFree, torch.optim.ASGD])
def test_optimizers_that_average_the_weights_apart(kind: type[torch.optim.Optimizer]) -> None:
    for setting in ({"mask_on": "update"}, {"moments": "masked"}):
        model = nn.Linear(2, 2)
        (name, value), *_ = setting.items()
        assert refusal(model, kind(model.parameters()), MaskSpec(mask_ratio=0.5, **setting)) == (
            f"{name}={value} can't hold with {kind.__name__}, which averages the weights apart from the mask: "
            "use mask_on=gradient and moments=dense"
        )
    model = nn.Linear(2, 2)
    attach(model, kind(model.parameters()), SPEC)


class StateOf(torch.optim.Optimizer):
    """An optimizer that only has state, made by a function of the parameter."""

    def __init__(self, params: Any, make: Callable[[Tensor], Any]):
        super().__init__(params, {"make": make})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p] |= {"step": torch.zeros(()), "moment": torch.zeros_like(p), "it": group["make"](p)}


NOT_BY_ENTRY: dict[str, Callable[[Tensor], Any]] = {
    "factored rows": lambda p: p.new_zeros(*p.shape[:-1], 1) if p.ndim > 1 else None,
    "preconditioner": lambda p: torch.eye(len(p)) if p.ndim > 1 else None,
    "preconditioners": lambda p: [torch.eye(size) for size in p.shape] if p.ndim > 1 else None,
    "blocks": lambda p: torch.zeros(p.numel() // 2 + 1) if p.ndim > 1 else None,
    "8 bits": lambda p: torch.zeros(p.shape, dtype=torch.uint8) if p.ndim > 1 else None,
}


@pytest.mark.parametrize("kind", NOT_BY_ENTRY)
def test_moments_of_other_shapes_also_beside_plain_ones(kind: str) -> None:
    model = nn.Linear(3, 3)  # square: its preconditioner has the weight's shape
    spec = MaskSpec(mask_ratio=0.5, moments="masked")
    assert refusal(model, StateOf(model.parameters(), NOT_BY_ENTRY[kind]), spec) == (
        "moments=masked needs moments that exist from the first step on and have their parameter's shape, got "
        "it of StateOf for weight"
    )
    only_bias = MaskSpec(mask_ratio=0.5, moments="masked", exclude=("weight",))
    attach(model, StateOf(model.parameters(), NOT_BY_ENTRY[kind]), only_bias)


def test_moments_of_which_it_is_not_known_how_they_begin() -> None:
    model = nn.Linear(3, 3)
    spec = MaskSpec(mask_ratio=0.5, moments="masked")
    assert refusal(model, StateOf(model.parameters(), torch.clone), spec) == (
        "moments=masked needs moments that begin at zero, "
        "and after a first step with a gradient of zero StateOf's it is not zero"
    )


def test_state_of_other_shapes_that_only_large_parameters_have_is_refused_at_the_step() -> None:
    model = nn.Linear(30, 30)
    optimizer = StateOf(model.parameters(), lambda p: torch.zeros(8) if p.numel() > 500 else None)
    attach(model, optimizer, MaskSpec(mask_ratio=0.5, moments="masked"))
    model(torch.randn(2, 30)).sum().backward()
    with pytest.raises(ValueError, match="have their parameter's shape, got it of StateOf for weight"):
        optimizer.step()


def test_an_optimizer_that_can_not_be_tried() -> None:
    class Odd(torch.optim.SGD):
        def __init__(self, model: nn.Module):
            super().__init__(model.parameters(), lr=0.1, momentum=0.9)

    model = nn.Linear(2, 2)
    for spec in (MaskSpec(mask_ratio=0.5, moments="masked"), MaskSpec(mask_ratio=0.5, signal="first_moment")):
        assert refusal(model, Odd(model), spec).startswith(
            "a trial step of Odd on a small parameter must succeed, since it shows how the state is updated, got "
        )
    attach(model, Odd(model), SPEC)


class Lookahead(torch.optim.Optimizer):
    """As some wrappers are: without torch's dictionaries of hooks, or with dictionaries that nothing looks into."""

    def __init__(self, inner: torch.optim.Optimizer, **attributes: Any):
        self.inner, self.param_groups, self.state, self.defaults = inner, inner.param_groups, inner.state, {}
        vars(self).update(attributes)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()


@pytest.mark.parametrize("dictionaries", [{}, {"_optimizer_step_pre_hooks": {}, "_optimizer_step_post_hooks": {}}])
def test_optimizers_that_never_call_hooks(dictionaries: dict[str, Any]) -> None:
    model = nn.Linear(2, 2)
    assert refusal(model, Lookahead(sgd(model), **dictionaries)) == (
        "Lookahead never calls torch's step hooks: its __init__ must call super().__init__ first"
    )


def test_a_scaler_that_only_the_step_is_given() -> None:
    class Unscaling(torch.optim.SGD):
        def step(self, closure: Any = None, *, grad_scaler: Any = None) -> Any:
            return super().step(closure)

    model = nn.Linear(2, 2)
    optimizer = Unscaling(model.parameters(), lr=0.1)
    attach(model, optimizer, SPEC)
    model(torch.randn(3, 2)).sum().backward()
    with pytest.raises(ValueError, match="a step with grad_scaler= hides the gradients' scale from the mask"):
        optimizer.step(grad_scaler=torch.amp.GradScaler("cpu"))
    optimizer.step()


@pytest.mark.parametrize("setting", [{"facts_every": -1}, {"facts_entries": 0}])
def test_facts_that_can_not_be_taken(setting: dict[str, int]) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="facts_every must be at least 0 and facts_entries at least 1"):
        attach(model, sgd(model), SPEC, **setting)


def test_the_state_of_another_model() -> None:
    spec = MaskSpec(mask_ratio=0.5, refresh="once")
    states = []
    for sizes in ((4, 4), (4, 12)):
        model = nn.Linear(*sizes)
        optimizer = sgd(model)
        mask = attach(model, optimizer, spec)
        model(torch.randn(3, 4)).pow(2).sum().backward()
        optimizer.step()
        states.append(mask.state_dict())
    with pytest.raises(ValueError, match="a mask of 48 entries takes 6 bytes, got 2"):
        mask.load_state_dict(states[0])
    other = nn.ModuleDict({"other": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match="the mask's state holds weight, which the model does not"):
        attach(other, sgd(other), spec).load_state_dict(states[0])


class Experts(nn.Module):
    """A feed-forward layer whose experts lie in one tensor, as transformers builds them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])
        self.layers[0].experts = nn.Parameter(torch.randn(2, 4, 4))


@pytest.mark.parametrize("parameters", ["linear", "linear_alone"])
def test_experts_in_one_tensor_are_named_or_refused(parameters: str) -> None:
    model = Experts()
    spec = MaskSpec(mask_ratio=0.5, parameters=parameters)
    assert refusal(model, sgd(model), spec) == (
        f"parameters={parameters}: layers.0.experts has more than two dimensions, as experts in one tensor have, and "
        "can't be ranked as a linear layer, so that exclude must name it"
    )
    attach(model, sgd(model), MaskSpec(mask_ratio=0.5, parameters=parameters, exclude=("*.experts",)))
    attach(model, sgd(model), SPEC)


def test_a_parameter_that_the_optimizer_holds_twice() -> None:
    model = nn.Linear(3, 3)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = torch.optim.AdamW([*model.parameters(), model.weight])
    assert refusal(model, optimizer) == "the optimizer must hold each parameter once, and holds weight more than once"

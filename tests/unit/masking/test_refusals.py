"""What a mask can't work with is refused at attach, in one sentence."""

import types

import pytest
import torch
from torch import nn

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
        "the optimizer holds 2 parameters that the model does not name"
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
        "signal=first_moment needs an optimizer with betas or momentum, got SGD without"
    )


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

"""A method that changes the parts of a model is refused at its first step, in one sentence."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from gmt.errors import UserError
from gmt.methods.sft import Dense
from gmt.training.attachment import MethodCallback
from gmt.training.structure import check_layout, layout
from gmt.training.train import check_comparable

Act = Callable[[nn.Module, Any], object]


class Reshaping(Dense):
    """At work it does something to the model at one of its calls."""

    def __init__(self, calls: dict[str, Act], model: nn.Module, optimizer: Any):
        self._calls, self._of = calls, (model, optimizer)

    def _do(self, call: str) -> None:
        self._calls.get(call, lambda *_: None)(*self._of)

    def begin_epoch(self, epoch: int) -> None:
        self._do("begin_epoch")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._do("load_state_dict")

    def detach(self) -> None:
        self._do("detach")


class Method:
    name = "reshaping"
    target_density = 1.0

    def __init__(self, calls: dict[str, Act]):
        self._calls = calls

    def attach(self, model: nn.Module, optimizer: Any, *, seed: int, facts_every: int) -> Reshaping:
        attached = Reshaping(self._calls, model, optimizer)
        attached._do("attach")
        return attached


def train(calls: dict[str, Act], tmp_path: Any) -> nn.Module:
    """Calls the callback as the Trainer does, around two steps."""
    model = nn.ModuleDict({"inner": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    attachment = MethodCallback(Method(calls), seed=0, facts_every=1, state={}, is_sharded=False)
    args, state, control = TrainingArguments(output_dir=str(tmp_path)), TrainerState(epoch=0), TrainerControl()
    of = {"model": model, "optimizer": optimizer}
    try:
        attachment.on_train_begin(args, state, control, **of)
        attachment.on_epoch_begin(args, state, control, **of)
        for _ in range(2):
            model["norm"](model["inner"](torch.randn(4, 3))).pow(2).sum().backward()
            optimizer.step()
            attachment.on_step_end(args, state, control, **of)
    finally:
        attachment.detach()
    attachment.check_detached()
    return model


def wrap_forward(model: Any, _: Any) -> None:
    plain = model["inner"].forward
    model["inner"].forward = lambda x: 2 * plain(x)


def in_a_step(model: Any, optimizer: Any) -> None:
    optimizer.register_step_post_hook(lambda *_: model.add_module("late", nn.Identity()))


def replace_forward(model: Any, _: Any) -> None:
    model["inner"].forward = MethodType(lambda self, x: x, model["inner"])


def new_weight(model: Any, _: Any) -> None:
    model["inner"].weight = nn.Parameter(torch.zeros(3, 3))


def double_in_place(module: nn.Module, x: object, y: Tensor) -> None:
    y.mul_(2)


class Growing(nn.Module):
    """Keeps a cache that grows in its forward pass, as rotary positions of remote code do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("cache", torch.zeros(len(x)), persistent=False)
        self.register_buffer("second", torch.zeros(len(x)), persistent=False)
        return x


def test_a_cache_that_grows_in_a_forward_pass_is_no_part_of_the_model() -> None:
    model = nn.Sequential(Growing(), nn.BatchNorm1d(3))
    before = layout(model)
    model(torch.ones(4, 3))
    check_layout("method", before, model, "in a step")
    model[1].running_mean = torch.zeros(4)
    with pytest.raises(UserError, match=r"replaces buffer 1\.running_mean"):
        check_layout("method", before, model, "in a step")


CHANGES: dict[str, tuple[Act, str]] = {
    "a parameter": (
        lambda m, _: m["inner"].register_parameter("extra", nn.Parameter(torch.zeros(2))),
        "adds parameter inner.extra",
    ),
    "another parameter": (new_weight, "replaces parameter inner.weight"),
    "no bias": (lambda m, _: m["inner"].register_parameter("bias", None), "removes parameter inner.bias"),
    "a buffer": (lambda m, _: m["inner"].register_buffer("seen", torch.zeros(1)), "adds buffer inner.seen"),
    "an adapter": (
        lambda m, _: m.update({"adapter": nn.Linear(3, 3)}),
        "adds parameter adapter.weight, parameter adapter.bias, module adapter",
    ),
    "a wrapped module": (lambda m, _: m.update({"inner": nn.Sequential(m["inner"])}), "replaces module inner"),
    "a parametrization": (
        lambda m, _: nn.utils.parametrizations.weight_norm(m["inner"]),
        "adds parameter inner.parametrizations.weight.original0",
    ),
    "a group": (
        lambda _, o: o.add_param_group({"params": [nn.Parameter(torch.zeros(1))]}),
        "adds parameter 0 of the optimizer's group 1",
    ),
    "a forward": (wrap_forward, "replaces module inner"),
    "a bound forward": (replace_forward, "replaces module inner"),
    "a hook": (
        lambda m, _: m["inner"].register_forward_hook(lambda module, x, y: 2 * y),
        "adds a forward hook that changes what Linear computes",
    ),
    "a hook in place": (
        lambda m, _: m["inner"].register_forward_hook(double_in_place),
        "adds a forward hook that changes what Linear computes",
    ),
    "a hook before": (
        lambda m, _: m["inner"].register_forward_pre_hook(lambda module, x: (2 * x[0],)),
        "adds a forward hook that changes what Linear computes",
    ),
}


@pytest.mark.parametrize("call", ["attach", "load_state_dict", "begin_epoch"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_method_that_changes_the_parts_of_a_model_is_refused(change: str, call: str, tmp_path: Any) -> None:
    act, said = CHANGES[change]
    with pytest.raises(
        UserError, match=rf"^method reshaping: {call} .*{said}.*: a method may not add, remove or replace"
    ):
        train({call: act}, tmp_path)


def test_a_refused_method_is_not_detached_since_that_may_fail(tmp_path: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("nothing to merge")

    with pytest.raises(UserError, match="attach adds buffer"):
        train({"attach": CHANGES["a buffer"][0], "detach": fail}, tmp_path)


def test_what_changes_in_a_step_is_refused_at_the_first(tmp_path: Any) -> None:
    with pytest.raises(UserError, match=r"^method reshaping in a step adds module late: a method may not"):
        train({"attach": in_a_step}, tmp_path)


def test_what_is_left_after_detach_is_refused(tmp_path: Any) -> None:
    with pytest.raises(
        UserError, match=r"^method reshaping after detach removes parameter inner.bias: a method may not"
    ):
        train({"detach": lambda m, _: m["inner"].register_parameter("bias", None)}, tmp_path)


def test_a_method_may_freeze_and_look(tmp_path: Any) -> None:
    norms: list[Tensor] = []

    def look(model: Any, _: Any) -> None:
        model["inner"].weight.requires_grad_(False)
        model["inner"].register_forward_hook(lambda module, x, y: norms.append(y.norm()))
        model["inner"].register_forward_pre_hook(lambda module, x, kwargs: None, with_kwargs=True)
        model["norm"].weight.register_hook(lambda gradient: 2 * gradient)

    train({"attach": look}, tmp_path)
    assert len(norms) == 2


def test_a_model_with_other_parameters_than_its_base_is_refused() -> None:
    model: Any = nn.ModuleDict({"inner": nn.Linear(3, 3)})
    check_comparable(model, nn.ModuleDict({"inner": nn.Linear(3, 3)}))  # type: ignore[arg-type]
    for base in (nn.ModuleDict({"inner": nn.Linear(3, 2)}), nn.ModuleDict({"inner": nn.Linear(3, 3, bias=False)})):
        with pytest.raises(
            UserError, match=r"load_model\(\) must give a model with the parameters of base\(\).*inner\."
        ):
            check_comparable(model, base)  # type: ignore[arg-type]

"""The trial of a method without weights: what it refuses, and what it leaves alone."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from gmt.errors import UserError
from gmt.methods.protocol import Method, fits_every_model
from gmt.methods.sft import Dense, Sft
from gmt.runs.build import plug_in
from gmt.training.method_trial import try_method
from gmt.training.reshaping import Examples
from tests.arms import method_of
from tests.model_families import model_of
from tests.models import train_settings

LENGTHS = (5, 9, 7, 3, 8, 6, 4, 9)
ROWS = [{"input_ids": list(range(3, 3 + length)), "labels": list(range(3, 3 + length))} for length in LENGTHS]


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, pad: int) -> torch.Tensor:
        return torch.tensor([row[key] + [pad] * (width - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def examples() -> Examples:
    return Examples(rows=ROWS, collate=collate, device="cpu")


def arm(name: str, **changes: Any) -> Method:
    settings = {field: getattr(method_of(name), field) for field in vars(method_of(name))}
    kind = type(method_of(name))
    target = {"_target_": f"{kind.__module__}.{kind.__qualname__}"}
    return plug_in("method", target | settings | changes, Method)


def tried(method: Method, model: Any, **train: Any) -> None:
    settings = train_settings(**train)
    try_method(method, model, settings, seed=1, num_rows=len(ROWS), examples=examples, must_merge=False)


LOW_RANK = {"_target_": "gmt.masking.low_rank.LowRankWeight", "rank": 20, "svd": "exact"}


@pytest.mark.parametrize(
    ("name", "changes", "family", "sentence"),
    [
        ("s2ft", {}, "gpt2", r"method=s2ft needs one part with .* in each of the model's 2 layers to choose channels"),
        ("s2ft", {}, "mixtral", r"method=s2ft chooses channels of plain matrices, and .* holds experts as one tensor"),
        ("hft", {}, "mamba", r"method=hft must know whether each matrix of a block is attention"),
        ("hft_paper", {}, "mamba", r"method=hft_paper must know whether each matrix of a block"),
        ("lift", {"signal": LOW_RANK}, "llama", r"method=lift: signal: .*: rank must be at most \d+ for .*, got 20"),
        ("snell", {"rank": 64}, "llama", r"method\.rank must be at most \d+, .*, got 64"),
        ("spt", {"rank": 64, "num_examples": 8}, "llama", r"method\.rank must be at most \d+, .*, got 64"),
        ("gmt", {"grain": "head"}, "mamba", r"method=gmt: grain=head: .* has no heads, so that exclude must name it"),
        ("gmt", {"grain": "column"}, "llama", r"method=gmt: grain=column: .*norm\.weight .* has no columns"),
        ("gmt", {"exclude": ["*nowhere*"]}, "llama", r"method=gmt: exclude: no parameter .* has a name like \*nowhere"),
        ("wanda", {"parameters": "all"}, "llama", r"method=wanda: signal=\w+: .* is not the weight of a linear"),
        ("migu", {}, "mixtral", r"method=migu: parameters=\w+: .* experts in one tensor .* exclude must name it"),
        (
            "lota",
            {"num_iterations": 10**6},
            "llama",
            r"method\.num_iterations must be at most \d+, the number of entries",
        ),
        (
            "green",
            {"budget": 0.01, "num_examples": 8},
            "llama",
            r"method\.budget must be at least 0\.\d+ .*, got 0\.01",
        ),
        ("green", {"num_examples": 8}, "mixtral", r"method=green needs modules that multiply by one matrix each"),
        ("bitfit", {}, "llama", r"method bitfit trains biases, and a model of type llama has none"),
    ],
)
def test_settings_that_do_not_fit_the_shapes_are_refused(
    name: str, changes: dict[str, Any], family: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        tried(arm(name, **changes), model_of(family))
    assert len(refused.value.sentences) == 1


def test_an_optimizer_without_a_matrix_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.optimizer=muon needs a matrix of a hidden layer"):
        tried(arm("ln_tuning"), model_of("llama"), optimizer="muon", momentum=0.9)


def test_the_least_budget_is_that_of_the_rows_and_the_weights_of_the_training() -> None:
    model: Any = model_of("llama")
    least = []
    method = arm("green", budget=0.01, num_examples=8)
    with pytest.raises(UserError) as refused:
        tried(method, model)
    least.append(refused.value.sentences)
    with pytest.raises(UserError) as refused:
        method.attach_with_examples(  # type: ignore[attr-defined]
            model,
            torch.optim.AdamW(model.parameters()),
            seed=1,
            facts_every=0,
            batches=lambda size: examples().batches(8, size, seed=1),
        )
    assert least == [refused.value.sentences]


def test_the_model_and_torchs_generator_are_left_as_they_are() -> None:
    model: Any = model_of("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    for name in ("s2ft", "sara", "lota", "spiel", "gem", "r_amt"):
        tried(method_of(name), model)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Attaching(Sft):
    """Does something when it attaches."""

    __module__ = "gmt.methods.attaching"  # as if it were one of this package

    def __init__(self, does: Any):
        object.__setattr__(self, "name", "attaching")
        object.__setattr__(self, "_does", does)

    def attach(self, model: nn.Module, optimizer: Any, *, seed: int, facts_every: int) -> Dense:
        self._does(model)  # type: ignore[attr-defined]
        return Dense()


@pytest.mark.parametrize(
    "reads",
    [
        lambda p: float(p.detach().abs().min()),
        lambda p: p.cpu(),
        lambda p: p.tolist(),
        lambda p: p[p > 0],
        lambda p: torch.empty(1 << 60),  # more memory than there is
    ],
)
def test_a_method_that_reads_a_value_or_needs_another_machine_is_not_refused(reads: Any) -> None:
    method = Attaching(lambda model: reads(next(model.parameters())))
    assert not fits_every_model(method)  # though its base class does
    tried(method, model_of("llama"))


@pytest.mark.parametrize("error", [KeyError, TypeError, AttributeError, AssertionError])
def test_a_bug_of_a_method_is_not_hidden(error: type[Exception]) -> None:
    def fails(model: nn.Module) -> None:
        raise error("a bug")

    with pytest.raises(error, match="a bug"):
        tried(Attaching(fails), model_of("llama"))


def test_a_method_that_changes_the_model_as_it_attaches_is_refused() -> None:
    def adds(model: nn.Module) -> None:
        model.extra = nn.Parameter(torch.zeros(2))

    with pytest.raises(
        UserError, match=re.escape("method attaching: attach adds parameter extra: a method may not add")
    ):
        tried(Attaching(adds), model_of("llama"))


def test_methods_of_other_packages_do_not_attach_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """They could kill or hang the process that starts all runs."""
    attached = []
    monkeypatch.setattr(Attaching, "__module__", "a_package.of_others")
    tried(Attaching(attached.append), model_of("llama"))
    assert attached == []

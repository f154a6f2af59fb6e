"""The arms of conf/method, told apart by what each is able to: tests over all of them know none by its name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gmt.config_dir import config_dir
from gmt.errors import UserError
from gmt.methods.probing import ProbesExamples
from gmt.methods.protocol import (
    AddsLoss,
    FitsOptimizers,
    FitsWorkers,
    MakesGroups,
    MakesOptimizer,
    Method,
    ReadsExamples,
    ReshapesModel,
    TrainsInPhases,
)
from gmt.runs.build import plug_in
from tests.merging import tiny_model
from tests.models import pretrained, train_settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FOLDER = Path(config_dir() / "method")
ARMS = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
_PARTS = (ReshapesModel, FitsOptimizers, MakesGroups, MakesOptimizer, AddsLoss, TrainsInPhases)


@cache
def method_of(arm: str) -> Method:
    """Return the method of conf/method/ARM.yaml."""
    return plug_in("method", yaml.safe_load((_FOLDER / f"{arm}.yaml").read_text(encoding="utf-8")), Method)


def works_on_two_workers(arm: str) -> bool:
    """Return whether an arm is not refused on two workers, whatever the sharding."""
    method = method_of(arm)
    return not (isinstance(method, FitsWorkers) and method.faults_with_workers(2))


def default_arm() -> str:
    """Return the arm of a config that names none."""
    defaults = yaml.safe_load(Path(config_dir() / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return next(entry["method"] for entry in defaults if isinstance(entry, dict) and "method" in entry)


def reads_examples(arm: str) -> bool:
    """Return whether an arm reads training examples before it trains."""
    method = method_of(arm)
    return isinstance(method, ReadsExamples | ProbesExamples) and method.num_examples > 0


def first_with(*parts: type) -> str:
    """Return the first arm whose method has these optional parts and reads no examples."""
    return next(arm for arm in ARMS if not reads_examples(arm) and all(isinstance(method_of(arm), p) for p in parts))


def plain_arm() -> str:
    """Return the arm that trains all entries, and whose method has no optional part."""
    (arm,) = (
        arm
        for arm in ARMS
        if method_of(arm).target_density == 1 and not any(isinstance(method_of(arm), p) for p in _PARTS)
    )
    return arm


@cache
def fits_shipped_model(arm: str) -> bool:
    """Return whether the arm works with the shipped model; one that does not refuses it before a run starts."""
    from gmt.training.method_trial import try_method

    model, no_examples = pretrained().skeleton(), lambda: None
    assert model is not None
    try:
        try_method(
            method_of(arm), model, train_settings(), seed=1, num_rows=10**6, examples=no_examples, must_merge=False
        )
    except UserError:
        return False
    return True


@cache
def num_added(arm: str) -> int:
    """Return the number of parameters that the arm puts into a model; 0 if it reshapes none."""
    from gmt.training.reshaping import Reshaping

    return Reshaping(method_of(arm), fitting_model(arm), seed=1).sizes.num_added


def fitting_model(arm: str) -> PreTrainedModel:
    """Return a model that the arm works with: the shipped one, or a tiny one with biases."""
    from tests.architectures import tiny_model as of_kind

    return pretrained().load_model() if fits_shipped_model(arm) else of_kind("qwen2")


@cache
def begins_as_base(arm: str) -> bool:
    """Return whether the arm, once it has put its parts into a model, computes as the base does; it reads examples."""
    import torch

    from gmt.training.reshaping import Examples, Reshaping

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}

    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(3, 60, (12,), generator=generator).tolist()} for _ in range(64)]
    model, ids = fitting_model(arm).eval(), torch.tensor([row["input_ids"] for row in rows[:4]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
    Reshaping(method_of(arm), model, seed=1, examples=Examples(rows=rows, collate=collate, device="cpu"))
    with torch.no_grad():
        return torch.allclose(model.eval()(input_ids=ids).logits, before, atol=1e-3)


def overrides_of(arm: str, folder: Path) -> list[str]:
    """Return the overrides of a small run of an arm: of a model that it works with, and of few examples to read.

    Args:
        arm: the name of its yaml.
        folder: where a model with biases is written, unless the shipped model will do.
    """
    few = ["method.num_examples=16"] if reads_examples(arm) else []
    return [f"method={arm}", *few, *([] if fits_shipped_model(arm) else with_biases(folder))]


def with_biases(folder: Path) -> list[str]:
    """Return the overrides of a tiny model with biases; write it into the folder unless it is there.

    Workers of one process group can't write it, since transformers saves no model on most of them.
    """
    if not (model := folder / "with-biases").exists():
        tiny_model(model, attention_bias=True, mlp_bias=True)
    return ["model=pretrained", f"model.name={model.name}", f"model.path={model}"]

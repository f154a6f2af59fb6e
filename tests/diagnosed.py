"""Finished runs with planted weights, so that the values of a diagnostic are known."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors.torch import save_file
from torch import Tensor

from gmt.composition import Composer, hydra_on
from gmt.diagnostics.finished import FinishedRun
from gmt.diagnostics.protocol import Row
from gmt.masking.bits import weights_sha256
from gmt.runs.build import plug_in
from gmt.studies.plan import Plan, PlannedRun
from tests.finished import finish, plan_of

Change = Callable[[str, Tensor, int], Tensor]
ARMS = {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}
ANSWERS = [
    {"part": part, "suite": "sums", "prompt": f"{number} + 1 = ", "answer": "2", "score": 1.0}
    for part in ("target", "source")
    for number in (1, 22)
]


def noise(name: str, base: Tensor, seed: int) -> Tensor:
    """Return a tensor with a small change of every entry."""
    generator = torch.Generator().manual_seed(crc32(f"{name}{seed}".encode()))
    return base + 0.01 * base.abs().mean() * torch.randn(base.shape, generator=generator)


def planted(root: Path, change: Change = noise, arms: Mapping[str, dict[str, Any]] = ARMS, seeds: int = 2) -> Plan:
    """Return a finished study of nano with the weights `change(name, tensor of the base, number of the run)`."""
    plan = plan_of(root, dict(arms), list(range(1, seeds + 1)))
    for number, each in enumerate(plan.runs):
        finish(each, 0.5 + number / 100)
        plant(each, lambda name, base, number=number: change(name, base, number))  # type: ignore[misc]
    return plan


def plant(planned: PlannedRun, change: Callable[[str, Tensor], Tensor]) -> None:
    """Write the weights and the prompts of a finished run."""
    record = planned.record
    base = {name: p.detach() for name, p in planned.run.model.base().named_parameters()}
    weights = {name: change(name, tensor).contiguous() for name, tensor in base.items()}
    (record.folder / "weights").mkdir()
    save_file(weights, record.folder / "weights" / "model.safetensors")
    record.write_lines("answers_before.jsonl", ANSWERS)
    record.write("result.json", record.read("result.json") | {"weights_sha256": weights_sha256(weights)})
    record.finish()


def config_of(name: str, *overrides: str) -> dict[str, Any]:
    """Return the config conf/diagnostic/NAME.yaml with overrides."""
    with hydra_on(None):
        config: dict[str, Any] = Composer().compose_plain([f"diagnostic={name}", *overrides])["diagnostic"]
    return config


def rows_of(run: FinishedRun, name: str, *overrides: str) -> list[Row]:
    """Return the rows of a shipped diagnostic."""
    return list(plug_in("diagnostic", config_of(name, *overrides)).rows(run))

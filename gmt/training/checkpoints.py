"""The method's state beside each of the Trainer's checkpoints, and which of these are whole.

A mask over sharded weights is sharded as they are, so each worker keeps its part. The first worker writes its file
last, when everything else is there, the meter's sums among it: a checkpoint without these was cut short.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from gmt.errors import UserError
from gmt.removal import remove
from gmt.training import workers

METER_SUMS = "meter.json"
_METHOD_STATE = "method_state.pt"


def last_whole_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end and trained by today's loss, or None."""
    of_today = [each for each in _whole(checkpoints) if not _has_router_loss(each)]
    return max(of_today, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def drop_other_losses(checkpoints: Path) -> None:
    """Delete the checkpoints of a mixture of experts that gmt-lab 0.1 trained with the routers' auxiliary loss too."""
    if workers.index() == 0:
        for checkpoint in filter(_has_router_loss, _whole(checkpoints)):
            remove(checkpoint, checkpoints)
    workers.meet()


def _whole(checkpoints: Path) -> list[Path]:
    """Return the checkpoints that were written to their end; a full disk or a kill leaves others with empty files."""
    states = checkpoints.glob(f"checkpoint-*/{_METHOD_STATE}")
    return [state.parent for state in states if (state.parent / METER_SUMS).exists()]


def _has_router_loss(checkpoint: Path) -> bool:
    """Of what is trained today the coefficient is 0 (gmt.training.paradigms); older ones have the model's own."""
    file = checkpoint / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return any(each.get("router_aux_loss_coef") for each in (config, config.get("text_config") or {}))


def save_method(checkpoint: Path, state: dict[str, Any], *, is_sharded: bool) -> None:
    """Completes a checkpoint; every worker must call it, after all that it has to write.

    Args:
        checkpoint: the folder.
        state: the method's; without shards it is the same on every worker.
        is_sharded: whether it is this worker's part.
    """
    num_shards = workers.num_workers() if is_sharded else 1
    if 0 < workers.index() < num_shards:
        torch.save(state, checkpoint / _part(workers.index()))
    workers.meet()
    if workers.index() == 0:
        path = checkpoint / _METHOD_STATE
        torch.save({"num_shards": num_shards, "state": state}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)


def load_method(checkpoint: Path, *, is_sharded: bool) -> dict[str, Any]:
    """The method's state of a whole checkpoint, or this worker's part of it, with its tensors on the CPU.

    Raises:
        UserError: it was made by another number of shards.
    """
    num_shards = workers.num_workers() if is_sharded else 1
    saved: dict[str, Any] = torch.load(checkpoint / _METHOD_STATE, map_location="cpu", weights_only=True)
    if saved["num_shards"] != num_shards:
        is_saved_sharded = saved["num_shards"] > 1
        fsdp = f"resources.workers={saved['num_shards']} resources.sharding=fsdp"
        raise UserError(
            f"{checkpoint} goes on with {fsdp if is_saved_sharded else 'resources.sharding=none'} only, since "
            f"a mask is sharded as its weights are; got {num_shards} shard{'s' if num_shards > 1 else ''}"
        )
    if workers.index() == 0 or not is_sharded:
        state: dict[str, Any] = saved["state"]
        return state
    part: dict[str, Any] = torch.load(checkpoint / _part(workers.index()), map_location="cpu", weights_only=True)
    return part


def fill_adamw_state(optimizer: Optimizer) -> None:
    """Gives parameters without a state the one that AdamW gives them at their first step.

    Sharded checkpoints come back only if every parameter has a state, and one that was frozen until then has none.
    """
    for group, parameter in ((g, p) for g in optimizer.param_groups for p in g["params"]):
        on_device = group.get("fused") or group.get("capturable")  # as torch.optim.AdamW begins it
        if not optimizer.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            step = torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu")
            optimizer.state[parameter] = {"step": step, **moments}


def _part(index: int) -> str:
    return f"method_state_of_worker_{index}.pt"

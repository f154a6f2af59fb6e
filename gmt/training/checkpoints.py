"""Saves and loads the method's state in the Trainer's checkpoints, and finds the complete checkpoints.

A mask over sharded weights is sharded in the same way, so each worker saves its part. The first worker writes its file
last, after all other files. A checkpoint that lacks this file or the meter's sums is incomplete.
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
    """Return the newest complete checkpoint whose loss has no routers' auxiliary term; None if there is none."""
    usable = [checkpoint for checkpoint in _complete(checkpoints) if not _has_router_loss(checkpoint)]
    return max(usable, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def drop_other_losses(checkpoints: Path) -> None:
    """Delete the checkpoints of a mixture of experts that gmt-lab 0.1 trained with the routers' auxiliary loss."""
    if workers.index() == 0:
        for checkpoint in filter(_has_router_loss, _complete(checkpoints)):
            remove(checkpoint, checkpoints)
    workers.barrier()


def _complete(checkpoints: Path) -> list[Path]:
    """Return the complete checkpoints; a full disk or a killed process leaves incomplete ones, with empty files."""
    states = checkpoints.glob(f"checkpoint-*/{_METHOD_STATE}")
    return [state.parent for state in states if (state.parent / METER_SUMS).exists()]


def _has_router_loss(checkpoint: Path) -> bool:
    """Return whether a checkpoint's loss had the routers' auxiliary term; its coefficient is now always 0."""
    file = checkpoint / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return any(part.get("router_aux_loss_coef") for part in (config, config.get("text_config") or {}))


def save_method(checkpoint: Path, state: dict[str, Any], *, is_sharded: bool) -> None:
    """Save the method's state, which completes a checkpoint; every worker must call this after its other writes.

    Args:
        checkpoint: the folder of the checkpoint.
        state: the method's state; the same on every worker unless it is sharded.
        is_sharded: whether the state is only this worker's part.
    """
    num_shards = workers.num_workers() if is_sharded else 1
    if 0 < workers.index() < num_shards:
        torch.save(state, checkpoint / _part(workers.index()))
    workers.barrier()
    if workers.index() == 0:
        path = checkpoint / _METHOD_STATE
        torch.save({"num_shards": num_shards, "state": state}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)


def load_method(checkpoint: Path, *, is_sharded: bool) -> dict[str, Any]:
    """Return the method's state in a complete checkpoint, or this worker's part of it, with tensors on the CPU.

    Raises:
        UserError: the checkpoint has another number of shards.
    """
    num_shards = workers.num_workers() if is_sharded else 1
    saved: dict[str, Any] = torch.load(checkpoint / _METHOD_STATE, map_location="cpu", weights_only=True)
    if saved["num_shards"] != num_shards:
        is_saved_sharded = saved["num_shards"] > 1
        fsdp = f"resources.workers={saved['num_shards']} resources.sharding=fsdp"
        raise UserError(
            f"{checkpoint} can be resumed with {fsdp if is_saved_sharded else 'resources.sharding=none'} only, since "
            f"a mask is sharded like its weights; got {num_shards} shard{'s' if num_shards > 1 else ''}"
        )
    if workers.index() == 0 or not is_sharded:
        state: dict[str, Any] = saved["state"]
        return state
    part: dict[str, Any] = torch.load(checkpoint / _part(workers.index()), map_location="cpu", weights_only=True)
    return part


def fill_adamw_state(optimizer: Optimizer) -> None:
    """Create the state of parameters that have none, as AdamW creates it at their first step.

    Sharded checkpoints can be loaded only if every parameter has a state, and a parameter that has always been frozen
    has none.
    """
    for group, parameter in ((g, p) for g in optimizer.param_groups for p in g["params"]):
        on_device = group.get("fused") or group.get("capturable")  # as in torch.optim.AdamW
        if not optimizer.state[parameter]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            step = torch.zeros((), dtype=torch.float32, device=parameter.device if on_device else "cpu")
            optimizer.state[parameter] = {"step": step, **moments}


def _part(index: int) -> str:
    return f"method_state_of_worker_{index}.pt"

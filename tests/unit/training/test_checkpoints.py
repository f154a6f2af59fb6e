"""What a training goes on from lies where it is used."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gmt.training.checkpoints import (
    METER_SUMS,
    drop_other_losses,
    fill_adamw_state,
    last_whole_checkpoint,
    load_method,
    save_method,
)


@pytest.mark.parametrize(
    ("settings", "device"), [({}, "cpu"), ({"fused": True}, "meta"), ({"capturable": True}, "meta")]
)
def test_a_step_that_is_begun_lies_where_adamw_begins_it(settings: dict[str, bool], device: str) -> None:
    """On the parameter's device where a kernel reads it there; the device meta stands for a GPU."""
    parameter = nn.Parameter(torch.ones(3, device="meta"))
    optimizer = torch.optim.AdamW([parameter])
    optimizer.param_groups[0].update(settings)
    fill_adamw_state(optimizer)
    step = optimizer.state[parameter]["step"]
    assert (step.device.type, step.dtype, step.shape) == (device, torch.float32, ())


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"capturable": True}])
def test_a_state_that_is_begun_is_adamws_own(settings: dict[str, Any]) -> None:
    begun, own = (torch.optim.AdamW([nn.Parameter(torch.ones(3))], fused=settings.get("fused", False)) for _ in "ab")
    for optimizer in (begun, own):
        optimizer.param_groups[0].update(settings)
        optimizer.param_groups[0]["params"][0].grad = torch.zeros(3)
    fill_adamw_state(begun)
    own._init_group(own.param_groups[0], [], [], [], [], [], [])
    ((found,), (expected,)) = (optimizer.state.values() for optimizer in (begun, own))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_methods_state_is_loaded_to_the_cpu(tmp_path: Path) -> None:
    """Whatever device it was saved from: that of another worker may not be there."""
    save_method(tmp_path, {"sums": torch.ones(3, device="cuda")}, is_sharded=False)
    assert load_method(tmp_path, is_sharded=False)["sums"].device.type == "cpu"


@pytest.mark.parametrize("last_file", ["config.json", "model.safetensors", "trainer_state.json", METER_SUMS, None])
def test_a_checkpoint_that_a_full_disk_cut_short_is_passed_over(tmp_path: Path, last_file: str | None) -> None:
    """The file that had no room is there and empty."""
    whole, cut = tmp_path / "checkpoint-4", tmp_path / "checkpoint-8"
    for folder in (whole, cut):
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "trainer_state.json", METER_SUMS):
            is_full = folder == cut and name == last_file
            (folder / name).write_text("" if is_full else "{}")
            if is_full:
                break
    save_method(whole, {}, is_sharded=False)
    drop_other_losses(tmp_path)
    assert last_whole_checkpoint(tmp_path) == whole

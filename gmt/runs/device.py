"""On what a run computes."""

import torch

from gmt.errors import UserError
from gmt.runs.settings import ResourceSettings


def device_of(resources: ResourceSettings) -> str:
    """`cpu` or `cuda`, as `resources.device` asks and this machine has it.

    Raises:
        UserError: a GPU is asked for, and there is none.
    """
    asked, available = resources.device, torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError("resources.device must be cpu or auto here, got cuda: torch finds no GPU")
    return "cuda" if asked != "cpu" and available else "cpu"

"""A mask that is given, in the place of one that is ranked."""

from collections.abc import Mapping

from torch import Tensor

from gmt.masking.engine import Mask
from gmt.masking.packing import pack


def give(mask: Mask, kept: Mapping[str, Tensor]) -> None:
    """Let a mask keep these entries in all its steps.

    It goes on as a mask that was made at an earlier step, so that its first step counts as the second.

    Args:
        mask: with refresh=once, before its first step.
        kept: of every parameter that would be ranked, by its plain name: bool of shape [N], whole and not sharded.

    Raises:
        ValueError: the mask would be ranked again, or has stepped; or a parameter is unknown or has another size.
    """
    if mask.spec.refresh != "once" or mask.facts() is not None:
        raise ValueError("a mask that is given needs refresh=once, before the first step")
    num_kept, num_entries = (
        sum(numbers) for numbers in zip(*((int(m.sum()), len(m)) for m in kept.values()), strict=True)
    )
    packed = {name: pack(kept_N) for name, kept_N in kept.items()}
    mask.load_state_dict(mask.state_dict() | {"step": 1, "density": num_kept / num_entries, "masks": packed})

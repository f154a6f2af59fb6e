"""Sets the kept entries of a mask, for methods that choose the entries themselves."""

from collections.abc import Mapping

from torch import Tensor

from gmt.masking.engine import Mask
from gmt.masking.packing import pack


def set_keep_masks(mask: Mask, keep_masks: Mapping[str, Tensor]) -> None:
    """Set the entries that a mask keeps at all its steps.

    They are loaded as the state of a mask that was chosen at step 1, so the mask's first step counts as step 2.

    Args:
        mask: a mask with refresh=once, before its first step.
        keep_masks: for each ranked parameter, by its plain name, the mask of the entries to keep: bool of shape [N],
            not sharded.

    Raises:
        ValueError: the mask has another `refresh` or has taken a step; or a parameter is unknown, or its packed mask
            would have another number of bytes.
    """
    if mask.spec.refresh != "once" or mask.facts() is not None:
        raise ValueError("the entries of a mask can be set only with refresh=once and before its first step")
    num_kept = sum(int(keep_N.sum()) for keep_N in keep_masks.values())
    num_entries = sum(map(len, keep_masks.values()))
    packed = {name: pack(keep_N) for name, keep_N in keep_masks.items()}
    mask.load_state_dict(mask.state_dict() | {"step": 1, "density": num_kept / num_entries, "masks": packed})

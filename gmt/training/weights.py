"""Names weights by their bits."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_sha256(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of weights by name, tied ones once: equal for two runs only if every bit is."""
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters, key=lambda pair: pair[0]):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

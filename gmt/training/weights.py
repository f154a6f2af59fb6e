"""Names weights by their bits."""

from collections.abc import Iterable

from torch import Tensor

from gmt.masking import bits


def weights_sha256(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Return a hash of weights by name, tied ones once: equal for two runs only if every bit is."""
    return bits.weights_sha256(dict(parameters))

"""What works by the names of parameters finds what it should in each family of models that transformers can build."""

import re

import pytest

from gmt.masking.parameters import layer_of
from tests.model_families import FAMILIES, matrices, model_of


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_a_mask_is_a_block(family: str) -> None:
    """scope=layer, and the facts by layer."""
    layers = {layer_of(name) for name in matrices(model_of(family))}
    assert len(layers) == 2
    assert all(re.search(r"^[a-z_.]+\.[01]$", layer) for layer in layers)
    outside = {name for name, _ in model_of(family).named_parameters() if not re.search(r"\.\d+\.", name)}
    assert {layer_of(name) for name in outside} == outside

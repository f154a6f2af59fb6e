"""What works by the names of parameters finds what it should in each family of models that transformers can build."""

import re

import pytest
import torch

from gmt.masking import MaskSpec, attach
from gmt.masking.parameters import excluded_parameters, layer_of, names_of
from tests.model_families import FAMILIES, matrices, model_of


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_a_mask_is_a_block(family: str) -> None:
    """scope=layer, and the facts by layer."""
    layers = {layer_of(name) for name in matrices(model_of(family))}
    assert len(layers) == 2
    assert all(re.search(r"^[a-z_.]+\.[01]$", layer) for layer in layers)
    outside = {name for name, _ in model_of(family).named_parameters() if not re.search(r"\.\d+\.", name)}
    assert {layer_of(name) for name in outside} == outside


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_that_are_no_linear_layers_are_ranked_by_no_mask_without_a_word(family: str) -> None:
    """parameters=linear: each matrix of a block is ranked, or refused by name."""
    model = model_of(family)
    fused = [name for name, p in matrices(model).items() if p.ndim > 2]
    spec = MaskSpec(mask_ratio=0.5, parameters="linear")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if fused:
        with pytest.raises(
            ValueError, match=rf"^parameters=linear: {re.escape(fused[0])} has more than two dimensions"
        ):
            attach(model, optimizer, spec)
        spec = MaskSpec(mask_ratio=0.5, parameters="linear", exclude=tuple(fused))
    attach(model, optimizer, spec).detach()
    left_out, _ = excluded_parameters(model, names_of(model), spec)
    assert {name for name, p in matrices(model).items() if p in left_out} == set(fused)

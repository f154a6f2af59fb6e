"""What a mask tells of itself: its repr, and its facts for a logger."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gmt.masking import LayerFacts, Mask, MaskFacts, MaskSpec, attach


def attached(**settings: int) -> tuple[Mask, Callable[[], MaskFacts]]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)]), "head": nn.Linear(4, 5)})
    optimizer = torch.optim.AdamW(model.parameters())
    mask = attach(model, optimizer, MaskSpec(mask_ratio=0.8, scope="layer"), **settings)

    def step() -> MaskFacts:
        optimizer.zero_grad()
        model["head"](model["layers"][0](torch.randn(3, 4))).pow(2).sum().backward()
        optimizer.step()
        facts = mask.facts()
        assert facts is not None
        return facts

    return mask, step


def test_a_mask_shows_its_settings_steps_and_density() -> None:
    mask, step = attached()
    assert repr(mask) == "Mask(mask_ratio=0.8, scope='layer'; step 0)"
    step()
    assert repr(mask) == "Mask(mask_ratio=0.8, scope='layer'; step 1, density 0.2)"


def test_facts_are_measured_at_the_first_and_every_tenth_step_unless_asked() -> None:
    _, step = attached()
    assert [n for n in range(1, 12) if step().measured is not None] == [1, 10]


def test_facts_as_a_dict_are_flat_names_of_numbers() -> None:
    _, step = attached(facts_every=1)
    step()
    facts = step()
    assert facts.measured is not None
    flat = facts.as_dict()
    assert all(type(value) in (int, float) for value in flat.values())
    names = set(LayerFacts.__dataclass_fields__)
    layers = {f"layers/{layer}/{name}" for layer in ("layers.0", "head.weight", "head.bias") for name in names}
    assert set(flat) == {"step", "num_entries", "density", "seconds"} | names | layers
    assert flat["moved_fraction"] == facts.measured.model.moved_fraction
    assert flat["layers/layers.0/overlap"] == facts.measured.layers["layers.0"].overlap


def test_a_fact_that_was_not_measured_is_missing_from_the_dict() -> None:
    _, step = attached()
    assert "overlap" not in step().as_dict()
    assert set(step().as_dict()) == {"step", "num_entries", "density", "seconds"}


def test_the_docs_name_every_fact() -> None:
    table = (Path(__file__).parents[3] / "docs" / "masking.md").read_text()
    facts = (set(MaskFacts.__dataclass_fields__) - {"measured"}) | set(LayerFacts.__dataclass_fields__)
    assert {name for name in facts if f"| `{name}` |" not in table} == set()

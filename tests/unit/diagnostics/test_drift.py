"""Drift of weights and activations equals the planted drift."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gmt.diagnostics.changes import place_of
from gmt.diagnostics.drift import activation_drift
from gmt.runs.diagnose import finished
from tests.architectures import tiny_model
from tests.diagnosed import planted, rows_of

SCALED = "model.layers.1.mlp.up_proj.weight"
RANK_ONE = "model.layers.0.self_attn.q_proj.weight"


def change(name: str, base: Tensor, _: int) -> Tensor:
    if name == RANK_ONE:
        return base + torch.outer(torch.ones(base.shape[0]), torch.ones(base.shape[1]))
    return 1.25 * base if name == SCALED else base


@pytest.mark.heavy
def test_norms_ranks_and_activations_equal_the_planted_ones(tmp_path: Path) -> None:
    plan = planted(tmp_path, change, {"sft": {"method": "sft"}}, seeds=1)
    run, progress = plan.runs[0].run, []
    rows = rows_of(finished(run, lambda done, total: progress.append((done, total))), "drift")
    found = {(row.layer, row.matrix, row.name): row.value for row in rows}
    up, q = "model.layers.*.mlp.up_proj.weight", "model.layers.*.self_attn.q_proj.weight"
    assert found[1, up, "relative_norm"] == pytest.approx(0.25, rel=1e-5)
    for part in ("source", "target"):
        assert found[1, up, f"csd_{part}"] == pytest.approx(0.25**2, rel=1e-4)
        assert found[0, up, f"csd_{part}"] == 0
    side = dict(run.model.base().named_parameters())[RANK_ONE].shape[0]
    assert found[0, q, "effective_rank"] == pytest.approx(1, abs=0.01)
    assert found[0, q, "singular_value_1"] == pytest.approx(side, rel=1e-4)
    moved = {(layer, matrix) for (layer, matrix, name), value in found.items() if name == "delta_norm" and value}
    assert moved == {(0, q), (1, up)}
    assert not [key for key in found if key[2] == "effective_rank" and key[:2] not in moved]
    assert progress[-1][0] == progress[-1][1]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_activation_drift_equals_a_forward_pass_by_hand(kind: str) -> None:
    model = tiny_model(kind)
    inputs: dict[str, list[Tensor]] = {}
    linear = {n: m for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    tuned = {name: 1.5 * p.detach() for name, p in model.named_parameters()}
    linear = {name: m for name, m in linear.items() if f"{name}.weight" in tuned}
    assert linear
    hooks = [
        m.register_forward_pre_hook(lambda _, a, n=n: inputs.setdefault(n, []).append(a[0])) for n, m in linear.items()
    ]
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8]]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = activation_drift(model, tuned, prompts, 2, lambda done, total: None)
    for hook in hooks:
        hook.remove()
    assert set(found) == set(linear)
    assert all(value == pytest.approx(0.25, rel=1e-4) for value in found.values())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(m._forward_pre_hooks for m in linear.values())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.11.mlp.up_proj.weight", (11, "model.layers.*.mlp.up_proj.weight")),
        ("model.layers.1.experts.3.w1.weight", (1, "model.layers.*.experts.3.w1.weight")),
        ("model.embed_tokens.weight", (None, "model.embed_tokens.weight")),
        ("0.weight", (0, "*.weight")),
        ("conv1d.weight", (None, "conv1d.weight")),
    ],
)
def test_layer_and_matrix_give_the_name(name: str, place: tuple[int | None, str]) -> None:
    assert place_of(name) == place
    layer, matrix = place
    assert (matrix if layer is None else matrix.replace("*", str(layer), 1)) == name

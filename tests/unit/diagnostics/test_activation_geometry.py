"""The geometry of module outputs is that of the planted change, whatever the modules' shapes and the memory."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gmt.diagnostics.linear_modules import compact, linear_modules
from gmt.diagnostics.paired_outputs import compared
from gmt.diagnostics.similarity import OutputSums
from gmt.errors import UserError
from gmt.runs.diagnose import finished
from tests.architectures import tiny_model
from tests.diagnosed import config_of, planted, rows_of

PROMPTS = [[1, 2, 3, 4], [5, 6, 7], [9, 8, 7], [11, 12], [3, 14, 15, 9, 2, 6]]
KEYS = ("procrustes_residual", "linear_cka", "gram_distortion")
UP, GATE, DOWN = (f"model.layers.1.mlp.{name}_proj" for name in ("up", "gate", "down"))


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(size))).Q


def measured(base: Any, tuned: Any, memory_bytes: int = 10**9, progress: Any = None) -> dict[str, dict[str, float]]:
    names = list(linear_modules(base, dict(base.named_parameters())))
    report = progress or (lambda done, total: None)
    return dict(compared(base, tuned, names, PROMPTS, batch_size=2, memory_bytes=memory_bytes, on_progress=report))


def change(name: str, base: Tensor, _: int) -> Tensor:
    """Rotate the outputs of gate_proj in layer 1, and scale those of up_proj, which has the same inputs."""
    if name == f"{GATE}.weight":
        return rotation(base.shape[0]) @ base
    return 1.25 * base if name == f"{UP}.weight" else base


@pytest.mark.heavy
def test_rows_equal_the_planted_change(tmp_path: Path) -> None:
    plan = planted(tmp_path, change, {"sft": {"method": "sft"}}, seeds=1)
    progress: list[tuple[int, int]] = []
    run = finished(plan.runs[0].run, lambda done, total: progress.append((done, total)))
    rows = rows_of(run, "activation_geometry", "diagnostic.memory_bytes=3000000")
    found = {(row.layer, row.matrix, row.name): row.value for row in rows}
    for part in ("source", "target"):
        assert found[None, None, f"num_tokens_{part}"] == sum(map(len, run.prompts(part)))

        def of(module: str, part: str = part) -> list[float]:
            layer = int(module.split(".")[2])
            matrix = f"{module.replace(str(layer), '*', 1)}.weight"
            return [found[layer, matrix, f"{key}_{part}"] for key in KEYS]

        assert of("model.layers.0.mlp.down_proj") == pytest.approx([0, 1, 0], abs=1e-6)
        assert of(GATE) == pytest.approx([0, 1, 0], abs=1e-5)
        assert of(UP) == pytest.approx([0.25, 1, 0], abs=1e-5)
        assert min(of(DOWN)[0], of(DOWN)[2]) > 0.01  # its inputs changed
    assert progress[-1][0] == progress[-1][1]
    assert all(done <= total for done, total in progress)


@pytest.mark.heavy
def test_rows_of_chosen_modules(tmp_path: Path) -> None:
    plan = planted(tmp_path, arms={"sft": {"method": "sft"}}, seeds=1)
    run = finished(plan.runs[0].run)
    rows = rows_of(run, "activation_geometry", "diagnostic.modules=['model.layers.*.mlp.down_proj']")
    assert {row.matrix for row in rows} == {None, "model.layers.*.mlp.down_proj.weight"}
    with pytest.raises(
        UserError, match=r"^each of diagnostic\.modules must match the name of a linear module, such as"
    ):
        rows_of(run, "activation_geometry", "diagnostic.modules=['*','down']")


@pytest.mark.parametrize(("modules", "shown"), [("'*'", r"'\*'"), ("[]", r"\[\]"), ("[1]", "1")])
def test_modules_are_a_list_of_patterns(modules: str, shown: str) -> None:
    from gmt.runs.build import plug_in

    with pytest.raises(UserError, match=rf"diagnostic\.modules must be a .*, got {shown}"):
        plug_in("diagnostic", config_of("activation_geometry", f"diagnostic.modules={modules}"))


def test_an_unmoved_model_has_no_change() -> None:
    base = tiny_model("llama")
    found = measured(base, copy.deepcopy(base))
    assert len(found) == len(linear_modules(base, dict(base.named_parameters())))
    for values in found.values():
        assert [values[key] for key in KEYS] == pytest.approx([0, 1, 0], abs=1e-6)
    assert not any(module._forward_pre_hooks for module in base.modules())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_wide_and_narrow_modules_equal_their_whole_outputs(kind: str) -> None:
    base, tuned = tiny_model(kind), tiny_model(kind)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    names = list(linear_modules(base, dict(base.named_parameters())))
    whole: list[dict[str, list[Tensor]]] = [{}, {}]
    for model, seen in zip((base, tuned), whole, strict=True):
        for name in names:
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, n=name, seen=seen: seen.setdefault(n, []).append(out.detach().flatten(end_dim=-2))
            )
    found = measured(base, tuned)
    widths = [base.get_submodule(name).weight.shape for name in names]
    assert any(shape[0] > shape[1] for shape in widths)
    assert any(shape[0] <= shape[1] for shape in widths)
    for name in names:
        x, y = (torch.cat(seen[name]) for seen in whole)
        sums = OutputSums(x.shape[1], x.device)
        sums.add(x, y)
        assert found[name] == pytest.approx(sums.values(), rel=1e-4, abs=1e-6)


def test_modules_take_turns_in_little_memory() -> None:
    base, tuned = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        tuned.get_submodule(UP).weight.mul_(1.5)
    passes, progress = [], []
    base.register_forward_pre_hook(lambda *_: passes.append(1))
    at_once = measured(base, tuned)
    num_batches = len(passes)
    in_turns = measured(base, tuned, memory_bytes=1, progress=lambda *step: progress.append(step))
    assert in_turns == at_once
    assert len(passes) == num_batches * (1 + len(at_once))
    assert progress[-1] == (len(at_once) * len(PROMPTS),) * 2


def test_a_module_that_does_not_see_every_token_has_no_values() -> None:
    class Routed(nn.Module):
        """A layer of all tokens, and two experts that share them."""

        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.all, self.even, self.odd = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, input_ids: Tensor, use_cache: bool) -> None:
            assert not use_cache
            h = self.all(self.embed(input_ids))
            self.even(h[input_ids % 2 == 0])
            self.odd(h[input_ids % 2 == 1])

    model = Routed()
    assert set(measured(model, copy.deepcopy(model))) == {"all"}


@pytest.mark.parametrize("outputs", [3, 6, 7, 20])
@pytest.mark.parametrize("kind", ["linear", "linear_with_bias", "conv1d"])
def test_compacted_outputs_have_the_same_inner_products(outputs: int, kind: str) -> None:
    inputs = 6
    module = Conv1D(outputs, inputs) if kind == "conv1d" else nn.Linear(inputs, outputs, bias=kind != "linear")
    if module.bias is not None:
        nn.init.normal_(module.bias)
    h = torch.randn(9, inputs)
    weight, bias = compact(module)
    assert weight.shape[0] <= inputs + 1
    z, whole = nn.functional.linear(h, weight, bias), module(h)
    torch.testing.assert_close(z @ z.T, whole @ whole.T, rtol=1e-4, atol=1e-5)

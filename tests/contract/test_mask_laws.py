"""The laws of the mask, for every signal x scope x mask_on x moments, against a reference that sorts and copies.

Those of rows, columns, heads and tensors: test_grain_laws.py."""

import copy
import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.masking.random_bits import hashed, keys
from gmt.masking.signals import row_of
from gmt.masking.spec import KEEP, MASK_ON, MOMENTS, SCOPES
from tests.signals import WITHOUT_ACTIVATIONS

AXES = list(itertools.product(WITHOUT_ACTIVATIONS, SCOPES, MASK_ON, MOMENTS))
LOOPS = [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda p, **loop: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, **loop),
    "sgd": lambda p, **loop: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.2, **loop),
}
STEPS = 5
SEED = 7


class Model(nn.Module):
    """Row 8 of the embedding never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh()) for _ in range(2))
        self.embed, self.layers, self.unused = nn.Embedding(9, 6), layers, nn.Linear(3, 3)
        self.register_parameter("tied", self.embed.weight)
        self.scale = nn.Parameter(torch.tensor(1.5))  # of the shape of an optimizer's count of steps

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.scale * x @ self.tied.t()


def a_model() -> Model:
    torch.manual_seed(0)
    return Model()


def backward(model: nn.Module, step: int) -> None:
    model(torch.arange(12).view(3, 4).add(step) % 8).logsumexp(-1).sum().backward()


def optimizer_of(model: nn.Module, kind: str, loop: dict[str, bool]) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return OPTIMIZERS[kind]([{"params": decayed}, {"params": others, "weight_decay": 0.0, "lr": 0.05}], **loop)


def train(
    spec: MaskSpec | None, kind: str = "adamw", loop: dict[str, bool] = LOOPS[2], *, resume_at: int | None = None
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Trains with the mask attached; at `resume_at` everything goes through bytes into new objects."""
    model = a_model()
    optimizer = optimizer_of(model, kind, loop)
    mask = attach(model, optimizer, spec, seed=SEED, facts_every=2) if spec else None
    for step in range(STEPS):
        if mask and spec and step == resume_at:
            file = io.BytesIO()
            torch.save(
                {"mask": mask.state_dict(), "optimizer": optimizer.state_dict(), "model": model.state_dict()}, file
            )
            file.seek(0)
            state = torch.load(file, weights_only=True)
            model = a_model()
            model.load_state_dict(state["model"])
            optimizer = optimizer_of(model, kind, loop)
            optimizer.load_state_dict(state["optimizer"])
            mask = attach(model, optimizer, spec, seed=SEED, facts_every=2)
            mask.load_state_dict(state["mask"])
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    return model, optimizer


def reference(spec: MaskSpec, kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same by sorting every score and copying everything, with nothing of the engine but the hash."""
    model = a_model()
    optimizer = optimizer_of(model, kind, LOOPS[2])
    names = {p: name for name, p in model.named_parameters()}
    sums: dict[nn.Parameter, Tensor] = {}
    squares: dict[nn.Parameter, Tensor] = {}
    keeps: dict[nn.Parameter, Tensor] = {}
    seen: dict[nn.Parameter, Tensor] = {}
    for layer in model.layers:
        layer[0].register_forward_hook(lambda m, x, y: add_activations(spec, seen, m, x[0], y))
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(model, step)
        ranked = [p for p in model.parameters() if p.grad is not None and is_ranked(spec, names[p])]
        for p in ranked:
            sums[p] = sums.get(p, torch.zeros_like(p)) + p.grad
            squares[p] = squares.get(p, torch.zeros_like(p)) + p.grad**2
        if step == 0 or (isinstance(spec.refresh, int) and step % spec.refresh == 0):
            moments = first_moments(optimizer, ranked) if spec.signal == "first_moment" else {}
            totals = squares if spec.signal == "squared_gradient" else seen if needs_activations(spec) else sums
            scores = {p: score(spec, p, names[p], moments.get(p), totals[p], step) for p in ranked}
            for p in ranked:
                members = [q for q in ranked if group(spec, names[q]) == group(spec, names[p])]
                kept = keep(spec, scores[p], torch.cat([scores[q].flatten() for q in members]))
                keeps[p] = in_entries(spec, kept, p)
            sums, squares = {}, {}
            seen.clear()
        old = {p: p.detach().clone() for p in ranked}
        old_moments = {p: copy.deepcopy(dict(optimizer.state.get(p, {}))) for p in ranked}
        if spec.mask_on == "gradient":
            for p in ranked:
                p.grad = p.grad * keeps[p]
        optimizer.step()
        for p in ranked:
            if spec.mask_on == "update":
                p.data = torch.where(keeps[p], p.data, old[p])
            for key, moment in optimizer.state[p].items() if spec.moments == "masked" else ():
                if key != "step":
                    before = old_moments[p].get(key)
                    optimizer.state[p][key] = torch.where(
                        keeps[p], moment, torch.zeros(()) if before is None else before
                    )
    return model, optimizer


def group(spec: MaskSpec, name: str) -> str:
    layer = ".".join(name.split(".")[:2]) if name.startswith("layers") else name
    return {"tensor": name, "layer": layer, "global": ""}[spec.scope]


def is_ranked(spec: MaskSpec, name: str) -> bool:
    return spec.parameters == "all" or (name.startswith("layers") and name.endswith(".0.weight"))


def needs_activations(spec: MaskSpec) -> bool:
    return row_of(spec.signal).needs_activations


def add_activations(spec: MaskSpec, seen: dict[nn.Parameter, Tensor], layer: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Adds what a layer takes or gives to the sum for each entry of its weight."""
    of_inputs = spec.signal == "weight_times_input"
    values = (x.detach().double().square() if of_inputs else y.detach().double().abs()).sum((0, 1))
    values = values[None, :] if of_inputs else values[:, None]
    seen[layer.weight] = seen.get(layer.weight, 0) + values.expand(layer.weight.shape)


def in_entries(spec: MaskSpec, kept: Tensor, p: nn.Parameter) -> Tensor:
    """The units that stay, as entries of the parameter's shape."""
    if spec.grain == "entry" or kept.numel() == p.numel():
        return kept.view(p.shape)
    return (kept[:, None] if spec.grain == "row" else kept).expand(p.shape)


def score(spec: MaskSpec, p: nn.Parameter, name: str, moment: Tensor | None, total: Tensor, step: int) -> Tensor:
    """Of each unit, by the mean over its entries; a random score is one draw for each."""
    if spec.signal == "random":
        num = {"entry": p.numel(), "row": len(p) if p.ndim else 1, "column": p.shape[-1] if p.ndim else 1, "tensor": 1}
        bits = hashed(torch.arange(num[spec.grain], dtype=torch.int32), keys(SEED, step, name)).double()
        return bits.view(p.shape) if spec.grain == "entry" else bits
    scores = score_of_entries(spec, p, moment, total)
    if spec.grain == "entry" or (spec.grain == "row" and p.ndim < 2):
        return scores if scores.ndim or spec.grain == "entry" else scores.view(1)
    dims = {"row": (1,), "column": (0,), "tensor": tuple(range(p.ndim))}[spec.grain]
    return scores.double().mean(dims).float().view(-1)


def score_of_entries(spec: MaskSpec, p: nn.Parameter, moment: Tensor | None, total: Tensor) -> Tensor:
    assert p.grad is not None
    match spec.signal:
        case "gradient":
            return p.grad.abs()
        case "accumulated_gradient":
            return total.abs()
        case "squared_gradient":
            return total
        case "output_magnitude":
            return total.float()
        case "weight_times_input":
            return p.detach().abs() * total.sqrt().float()
        case "weight_magnitude":
            return p.detach().abs()
        case "weight_times_gradient":
            return (p.detach() * p.grad).abs()
        case "gradient_over_weight":
            return p.grad.abs() / (p.detach().abs() + 1e-8)
        case "large_gradient_small_weight":
            places = torch.zeros(p.numel(), dtype=torch.float64)
            by_gradient = sorted(range(p.numel()), key=lambda i: float(p.grad.abs().flatten()[i]))
            by_weight = sorted(range(p.numel()), key=lambda i: -float(p.detach().abs().flatten()[i]))
            for order in (by_gradient, by_weight):
                for place, i in enumerate(order, start=1):
                    places[i] += place
            return (places / (2 * p.numel())).float().view(p.shape) * (p.grad != 0)
    assert moment is not None
    return moment.abs()


def first_moments(optimizer: torch.optim.Optimizer, ranked: list[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """What a copy of the optimizer has after this step."""
    twin, copies = copy.deepcopy((optimizer, ranked))
    for p, q in zip(ranked, copies, strict=True):
        q.grad = p.grad.clone()
    twin.step()
    states = [twin.state[q] for q in copies]
    return {p: s.get("exp_avg", s.get("momentum_buffer")) for p, s in zip(ranked, states, strict=True)}


def keep(spec: MaskSpec, scores: Tensor, everything: Tensor) -> Tensor:
    zeros_count = row_of(spec.signal).ranks_zeros
    stay = len(everything) - math.floor(spec.mask_ratio * len(everything) + 1e-9)
    ranked = (everything if zeros_count else everything[everything > 0]).sort(descending=spec.keep == "largest").values
    if not len(ranked):
        return torch.zeros(scores.shape, dtype=torch.bool)
    threshold = ranked[min(stay, len(ranked)) - 1]
    kept = scores >= threshold if spec.keep == "largest" else scores <= threshold
    return kept if zeros_count else kept & (scores > 0)


def same(a: tuple[nn.Module, torch.optim.Optimizer], b: tuple[nn.Module, torch.optim.Optimizer]) -> bool:
    """Weights and moments, bit for bit (but for the sign of zero)."""
    states = [
        [p.detach() for p in model.parameters()]
        + [v for s in optimizer.state_dict()["state"].values() for v in s.values() if isinstance(v, Tensor)]
        for model, optimizer in (a, b)
    ]
    return all(torch.equal(x, y) for x, y in zip(*states, strict=True))


def specs(ratio: float, **more: Any) -> list[MaskSpec]:
    return [
        MaskSpec(mask_ratio=ratio, signal=signal, scope=scope, mask_on=mask_on, moments=moments, **more)
        for signal, scope, mask_on, moments in AXES
    ]


REFERENCES = list(itertools.product([1, 2, "once"], KEEP, OPTIMIZERS))


@pytest.mark.parametrize(("refresh", "keep", "kind"), REFERENCES)
def test_training_equals_the_references(refresh: int | str, keep: str, kind: str) -> None:
    """A quarter of the specs for each combination; all combinations together hold each spec three times."""
    turn = REFERENCES.index((refresh, keep, kind)) % 4
    for spec in specs(0.7, refresh=refresh, keep=keep)[turn::4]:
        assert same(train(spec, kind), reference(spec, kind)), spec


@pytest.mark.slow
@pytest.mark.parametrize(("refresh", "keep", "kind"), REFERENCES)
def test_training_equals_the_references_for_every_spec(refresh: int | str, keep: str, kind: str) -> None:
    for spec in specs(0.7, refresh=refresh, keep=keep):
        assert same(train(spec, kind), reference(spec, kind)), spec


@pytest.mark.parametrize("loop", LOOPS, ids=["fused", "foreach", "plain"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_ratio_zero_is_the_plain_optimizer_bit_for_bit(loop: dict[str, bool], kind: str) -> None:
    """A third of the specs for each loop; all loops together hold each spec once for each optimizer."""
    plain = train(None, kind, loop)
    for spec in specs(0)[LOOPS.index(loop) :: 3]:
        assert same(train(spec, kind, loop), plain), spec


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS, ids=["fused", "foreach", "plain"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_ratio_zero_is_the_plain_optimizer_bit_for_bit_for_every_spec(loop: dict[str, bool], kind: str) -> None:
    plain = train(None, kind, loop)
    for spec in specs(0):
        assert same(train(spec, kind, loop), plain), spec


@pytest.mark.parametrize("loop", LOOPS, ids=["fused", "foreach", "plain"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_an_update_mask_holds_never_moves(loop: dict[str, bool], kind: str) -> None:
    for signal, scope, moments in itertools.product(WITHOUT_ACTIVATIONS, SCOPES, MOMENTS):
        spec = MaskSpec(mask_ratio=0.9, signal=signal, scope=scope, mask_on="update", moments=moments, refresh="once")
        model, _ = train(spec, kind, loop)
        ranked = [(p, q) for p, q in zip(model.parameters(), a_model().parameters(), strict=True) if p.grad is not None]
        moved = [(p != q) for p, q in ranked]
        total, num_moved = sum(m.numel() for m in moved), sum(int(m.sum()) for m in moved)
        # Ties at the threshold all stay, and that is many where norms' weights are all one, biases all zero.
        ties = 24 if signal == "weight_magnitude" else 0
        assert 0 < num_moved <= total - math.floor(0.9 * total) + len(moved) + ties, spec
        decay_ranks = signal == "first_moment" and kind == "sgd"  # which adds it to its moment
        if not row_of(signal).ranks_zeros and not decay_ranks:
            assert torch.equal(model.embed.weight[8], a_model().embed.weight[8])  # no gradient, so never kept


REFRESHES = [1, 3, "once"]


@pytest.mark.parametrize("refresh", REFRESHES)
def test_state_goes_through_a_checkpoint(refresh: int | str) -> None:
    """A third of the specs for each refresh; all together hold each spec once."""
    for spec in specs(0.6, refresh=refresh)[REFRESHES.index(refresh) :: 3]:
        assert same(train(spec), train(spec, resume_at=2)), spec


@pytest.mark.slow
@pytest.mark.parametrize("refresh", REFRESHES)
def test_state_goes_through_a_checkpoint_for_every_spec(refresh: int | str) -> None:
    for spec in specs(0.6, refresh=refresh):
        assert same(train(spec), train(spec, resume_at=2)), spec


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_detach_leaves_nothing_behind(kind: str) -> None:
    for spec in specs(0.8):
        model = a_model()
        optimizer = optimizer_of(model, kind, {})
        keys_before = set(vars(optimizer))
        mask = attach(model, optimizer, spec)
        backward(model, 0)
        optimizer.step()
        mask.detach()
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert set(vars(optimizer)) == keys_before
        plain, plain_optimizer = copy.deepcopy((model, optimizer))
        for m, o in ((model, optimizer), (plain, plain_optimizer)):
            o.zero_grad()
            backward(m, 1)
            gradients = [p.grad.clone() for p in m.parameters() if p.grad is not None]
            o.step()
            assert all(
                torch.equal(p.grad, g)
                for p, g in zip((p for p in m.parameters() if p.grad is not None), gradients, strict=True)
            )
        assert same((model, optimizer), (plain, plain_optimizer))

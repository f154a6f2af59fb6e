"""The laws of the mask, for every signal x scope x mask_on x moments, against a reference that sorts and copies."""

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
from gmt.masking.spec import KEEP, MASK_ON, MOMENTS, SCOPES, SIGNALS

AXES = list(itertools.product(SIGNALS, SCOPES, MASK_ON, MOMENTS))
LOOPS = [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda p, **loop: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, **loop),
    "sgd": lambda p, **loop: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.2, **loop),
}
STEPS = 5
SEED = 7


def a_model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh()) for _ in range(2))
    model = nn.Module()
    model.embed, model.layers, model.unused = nn.Embedding(9, 6), layers, nn.Linear(3, 3)
    model.register_parameter("tied", model.embed.weight)
    model.scale = nn.Parameter(torch.tensor(1.5))  # of the shape of an optimizer's count of steps
    return model


def backward(model: nn.Module, step: int) -> None:
    """Row 8 of the embedding never gets a gradient."""
    tokens = torch.arange(12).view(3, 4).add(step) % 8
    x = model.embed(tokens)
    for layer in model.layers:
        x = layer(x)
    (model.scale * x @ model.tied.t()).logsumexp(-1).sum().backward()


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
    keeps: dict[nn.Parameter, Tensor] = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(model, step)
        ranked = [p for p in model.parameters() if p.grad is not None]
        for p in ranked:
            sums[p] = sums.get(p, torch.zeros_like(p)) + p.grad
        if step == 0 or (isinstance(spec.refresh, int) and step % spec.refresh == 0):
            moments = first_moments(optimizer, ranked) if spec.signal == "first_moment" else {}
            scores = {p: score(spec, p, names[p], moments.get(p), sums[p], step) for p in ranked}
            for p in ranked:
                members = [q for q in ranked if group(spec, names[q]) == group(spec, names[p])]
                keeps[p] = keep(spec, scores[p], torch.cat([scores[q].flatten() for q in members]))
            sums = {}
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


def score(spec: MaskSpec, p: nn.Parameter, name: str, moment: Tensor | None, total: Tensor, step: int) -> Tensor:
    assert p.grad is not None
    match spec.signal:
        case "gradient":
            return p.grad.abs()
        case "accumulated_gradient":
            return total.abs()
        case "random":
            return hashed(torch.arange(p.numel(), dtype=torch.int32), keys(SEED, step, name)).view(p.shape).double()
        case "weight_magnitude":
            return p.detach().abs()
        case "weight_times_gradient":
            return (p.detach() * p.grad).abs()
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
    zeros_count = spec.signal in ("random", "weight_magnitude")
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
    """A third of the specs for each combination; all combinations together hold each spec four times."""
    turn = REFERENCES.index((refresh, keep, kind)) % 3
    for spec in specs(0.7, refresh=refresh, keep=keep)[turn::3]:
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
    for signal, scope, moments in itertools.product(SIGNALS, SCOPES, MOMENTS):
        spec = MaskSpec(mask_ratio=0.9, signal=signal, scope=scope, mask_on="update", moments=moments, refresh="once")
        model, _ = train(spec, kind, loop)
        ranked = [(p, q) for p, q in zip(model.parameters(), a_model().parameters(), strict=True) if p.grad is not None]
        moved = [(p != q) for p, q in ranked]
        total, num_moved = sum(m.numel() for m in moved), sum(int(m.sum()) for m in moved)
        # Ties at the threshold all stay, and that is many where norms' weights are all one, biases all zero.
        ties = 24 if signal == "weight_magnitude" else 0
        assert 0 < num_moved <= total - math.floor(0.9 * total) + len(moved) + ties, spec
        decay_ranks = signal == "first_moment" and kind == "sgd"  # which adds it to its moment
        if signal not in ("random", "weight_magnitude") and not decay_ranks:
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

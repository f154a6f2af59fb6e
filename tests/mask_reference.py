"""What a mask does to a small training, and a slow reference of it that sorts every score and copies everything."""

import copy
import fnmatch
import io
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.masking.budgets import shared_out
from gmt.masking.random_bits import hashed, keys
from gmt.masking.signals import row_of
from gmt.masking.spec import ENTROPY, PACKED
from gmt.optimizers.packed_adamw import PackedAdamW

LOOPS = [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda p, **loop: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2, **loop),
    "sgd": lambda p, **loop: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.2, **loop),
}
STEPS = 5
SEED = 7


class Model(nn.Module):
    """Row 8 of the embedding never gets a gradient."""

    def __init__(self, block: Callable[[], nn.Module] = lambda: nn.Linear(6, 6)) -> None:
        super().__init__()
        layers = nn.ModuleList(nn.Sequential(block(), nn.LayerNorm(6), nn.Tanh()) for _ in range(2))
        self.embed, self.layers, self.unused = nn.Embedding(9, 6), layers, nn.Linear(3, 3)
        self.register_parameter("tied", self.embed.weight)
        self.scale = nn.Parameter(torch.tensor(1.5))  # of the shape of an optimizer's count of steps

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.scale * x @ self.tied.t()


class Attention(nn.Module):
    """Three heads of queries that share one of keys and values, and biases in heads too."""

    head_dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(6, 2, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x).unflatten(-1, (3, 2)), self.k_proj(x), self.v_proj(x)
        weights = torch.einsum("bthd,bsd->bths", q, k).softmax(-1)
        return self.o_proj(torch.einsum("bths,bsd->bthd", weights, v).flatten(-2))


NO_HEADS = ("tied", "scale", "unused*", "*.1.*")


def a_model(grain: str = "entry") -> Model:
    torch.manual_seed(0)
    return Model(Attention) if grain == "head" else Model()


def backward(model: nn.Module, step: int) -> None:
    model(torch.arange(12).view(3, 4).add(step) % 8).logsumexp(-1).sum().backward()


def optimizer_of(
    model: nn.Module, kind: str, loop: dict[str, bool], *, is_packed: bool = False
) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0, "lr": 0.05}]
    return PackedAdamW(groups, lr=0.1, weight_decay=0.2) if is_packed else OPTIMIZERS[kind](groups, **loop)


def train(
    spec: MaskSpec | None,
    kind: str = "adamw",
    loop: dict[str, bool] = LOOPS[2],
    *,
    resume_at: int | None = None,
    grain: str = "entry",
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train with the mask attached; at step `resume_at` save everything, and load it into new objects.

    Without a mask, `grain` chooses the model.
    """
    grain, is_packed = (spec.grain, spec.moments == PACKED) if spec else (grain, False)
    model = a_model(grain)
    optimizer = optimizer_of(model, kind, loop, is_packed=is_packed)
    mask = attach(model, optimizer, spec, seed=SEED, facts_every=2) if spec else None
    for step in range(STEPS):
        if mask and spec and step == resume_at:
            file = io.BytesIO()
            torch.save(
                {"mask": mask.state_dict(), "optimizer": optimizer.state_dict(), "model": model.state_dict()}, file
            )
            file.seek(0)
            state = torch.load(file, weights_only=True)
            model = a_model(grain)
            model.load_state_dict(state["model"])
            optimizer = optimizer_of(model, kind, loop, is_packed=is_packed)
            optimizer.load_state_dict(state["optimizer"])
            mask = attach(model, optimizer, spec, seed=SEED, facts_every=2)
            mask.load_state_dict(state["mask"])
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    return model, optimizer


def reference(spec: MaskSpec, kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train as `train` does, but sort every score and copy everything, and use only the hash of the engine.

    For scope=entropy the engine's own function, which has its own tests, divides the budget among tensors. Packed
    moments have the bits of torch's fused AdamW, and entries that leave the mask lose theirs.
    """
    model = a_model(spec.grain)
    optimizer = optimizer_of(model, kind, LOOPS[0 if spec.moments == PACKED else 2])
    names = {p: name for name, p in model.named_parameters()}
    sums: dict[nn.Parameter, Tensor] = {}
    squares: dict[nn.Parameter, Tensor] = {}
    keeps: dict[nn.Parameter, Tensor] = {}
    seen: dict[nn.Parameter, Tensor] = {}
    for layer in (module for module in model.layers.modules() if isinstance(module, nn.Linear)):
        layer.register_forward_hook(lambda m, x, y: add_activations(spec, seen, m, x[0], y))
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
            if spec.scope == ENTROPY:
                parts = dict(zip(ranked, parts_by_entropy(spec, [scores[p] for p in ranked]), strict=True))
            for p in ranked:
                members = [q for q in ranked if group(spec, names[q]) == group(spec, names[p])]
                everything = torch.cat([scores[q] for q in members])
                kept = keep(spec, scores[p], everything, parts[p] if spec.scope == ENTROPY else None)
                keeps[p] = kept[units(spec, names[p], p)]
                for key in ("exp_avg", "exp_avg_sq") if spec.moments == PACKED and step else ():
                    optimizer.state[p][key] *= keeps[p]
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
            for key, moment in optimizer.state[p].items() if spec.moments != "dense" else ():
                if key != "step":
                    before = old_moments[p].get(key)
                    optimizer.state[p][key] = torch.where(
                        keeps[p], moment, torch.zeros(()) if before is None else before
                    )
    return model, optimizer


def group(spec: MaskSpec, name: str) -> str:
    layer = ".".join(name.split(".")[:2]) if name.startswith("layers") else name
    return {"tensor": name, "layer": layer, "global": "", ENTROPY: name}[spec.scope]


def is_ranked(spec: MaskSpec, name: str) -> bool:
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in spec.exclude):
        return False
    return spec.parameters == "all" or (name.startswith("layers") and name.endswith((".0.weight", "_proj.weight")))


def needs_activations(spec: MaskSpec) -> bool:
    return row_of(spec.signal).needs_activations


def add_activations(spec: MaskSpec, seen: dict[nn.Parameter, Tensor], layer: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Add a layer's inputs or outputs to the sum of each entry of its weight."""
    of_inputs = spec.signal == "weight_times_input"
    values = (x.detach().double().square() if of_inputs else y.detach().double().abs()).sum((0, 1))
    values = values[None, :] if of_inputs else values[:, None]
    seen[layer.weight] = seen.get(layer.weight, 0) + values.expand(layer.weight.shape)


def units(spec: MaskSpec, name: str, p: nn.Parameter) -> Tensor:
    """Return the number of each entry's unit, in the parameter's shape."""
    if not p.ndim:
        return torch.zeros((), dtype=torch.int64)
    rows, columns = torch.arange(len(p)).view(-1, *[1] * (p.ndim - 1)).expand(p.shape), torch.arange(p.shape[-1])
    match spec.grain:
        case "entry":
            return torch.arange(p.numel()).view(p.shape)
        case "row":
            return rows
        case "column":
            return columns.expand(p.shape)
        case "head":
            return (columns.expand(p.shape) if "o_proj" in name else rows) // Attention.head_dim
    return torch.zeros(p.shape, dtype=torch.int64)


def score(spec: MaskSpec, p: nn.Parameter, name: str, moment: Tensor | None, total: Tensor, step: int) -> Tensor:
    """Return the score of each unit: the mean over its entries, or for a random score one draw."""
    unit_N = units(spec, name, p).flatten()
    num_units = int(unit_N.max()) + 1
    if spec.signal == "random":
        return hashed(torch.arange(num_units, dtype=torch.int32), keys(SEED, step, name)).double()
    scores = score_of_entries(spec, p, moment, total).flatten()
    if num_units == len(scores):
        return scores
    return torch.stack([scores[unit_N == unit].double().mean() for unit in range(num_units)]).float()


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
    """Return the first moments of a copy of the optimizer after this step."""
    twin, copies = copy.deepcopy((optimizer, ranked))
    for p, q in zip(ranked, copies, strict=True):
        q.grad = p.grad.clone()
    twin.step()
    states = [twin.state[q] for q in copies]
    return {p: s.get("exp_avg", s.get("momentum_buffer")) for p, s in zip(ranked, states, strict=True)}


def num_kept(spec: MaskSpec, num_entries: int) -> int:
    return num_entries - math.floor(spec.mask_ratio * num_entries + 1e-9)


def parts_by_entropy(spec: MaskSpec, every: list[Tensor]) -> list[int]:
    """Return the number of entries of each tensor that stay, by the norm of its scores times their shares' entropy."""
    weights = []
    for x in (scores.double().abs() for scores in every):
        shares = (x / x.sum())[x > 0]
        weights.append(float(x.norm() * -(shares * shares.log()).sum()))
    sizes = [len(scores) for scores in every]
    return shared_out(num_kept(spec, sum(sizes)), weights, sizes)


def keep(spec: MaskSpec, scores: Tensor, everything: Tensor, part: int | None) -> Tensor:
    zeros_count = row_of(spec.signal).ranks_zeros
    stay = num_kept(spec, len(everything)) if part is None else part
    ranked = (everything if zeros_count else everything[everything > 0]).sort(descending=spec.keep == "largest").values
    if not len(ranked):
        return torch.zeros(scores.shape, dtype=torch.bool)
    threshold = ranked[min(stay, len(ranked)) - 1]
    kept = scores >= threshold if spec.keep == "largest" else scores <= threshold
    return kept if zeros_count else kept & (scores > 0)


def same(a: tuple[nn.Module, torch.optim.Optimizer], b: tuple[nn.Module, torch.optim.Optimizer]) -> bool:
    """Return whether weights and moments are equal bit for bit, except for the sign of zero; packed moments are placed
    at their entries."""
    tensors = [[p.detach() for p in model.parameters()] + moments(model, optimizer) for model, optimizer in (a, b)]
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    found = []
    for p in model.parameters():
        state = {k: v for k, v in optimizer.state.get(p, {}).items() if isinstance(v, Tensor) and k != "support"}
        support = optimizer.support(p) if isinstance(optimizer, PackedAdamW) else None
        for key in sorted(state):
            value = state[key]
            if support is not None and key != "step":
                value = torch.zeros(p.numel())
                support.scatter_(value, state[key])
            found.append(value.view(p.shape) if key != "step" else value)
    return found

"""DDP and FSDP2 on several gloo processes: each entry's mask is the one that a single process would make."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from gmt.masking import Mask, MaskSpec, NonFiniteGradientError, attach
from gmt.masking.spec import MASK_ON, SCOPES
from tests.processes import in_ranks
from tests.signals import BY_STRETCHES, WITHOUT_ACTIVATIONS

STEPS = 2


def a_model() -> nn.Module:
    """Sizes that two and three processes can't cut evenly; the last layer has fewer rows than processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 10), nn.LayerNorm(10), nn.Linear(10, 1))


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded; the engine never does this, only its test."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


def wrap(model: nn.Module, kind: str) -> nn.Module:
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


class Pair:
    """The same model sharded and whole, the latter stepping with the former's gathered gradients."""

    def __init__(self, spec: MaskSpec, kind: str, facts_entries: int = 1 << 18):
        self.whole, self.sharded = a_model(), wrap(a_model(), kind)
        self.spec = spec
        self.facts = {"facts_every": 1, "facts_entries": facts_entries}
        self.optimizers = [
            torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.1) for m in (self.sharded, self.whole)
        ]
        self.masks: list[Mask] = []
        self.attach()

    def attach(self) -> None:
        models = (self.sharded, self.whole)
        self.masks = [
            attach(m, o, self.spec, seed=3, **self.facts) for m, o in zip(models, self.optimizers, strict=True)
        ]

    def backward(self, step: int) -> None:
        torch.manual_seed(100 * step + torch.distributed.get_rank())  # other data on each process
        self.optimizers[0].zero_grad()
        self.sharded(torch.randn(4, 7)).pow(2).mean().backward()
        for p, q in zip(self.sharded.parameters(), self.whole.parameters(), strict=True):
            assert p.grad is not None
            q.grad = full(p.grad)

    def step(self, step: int) -> None:
        self.backward(step)
        for optimizer in self.optimizers:
            optimizer.step()
        for p, q in zip(self.sharded.parameters(), self.whole.parameters(), strict=True):
            assert p.grad is not None
            assert torch.equal(full(p.grad), q.grad), (self.spec, step)
            assert torch.equal(full(p), q.detach()), (self.spec, step)
        facts, expected = (mask.facts() for mask in self.masks)
        assert facts is not None
        assert expected is not None
        assert (facts.density, facts.num_entries) == (expected.density, expected.num_entries)
        assert facts.measured is not None
        assert expected.measured is not None
        for name, value in vars(expected.measured.model).items():
            found = getattr(facts.measured.model, name)
            assert found == value or found == pytest.approx(value, rel=1e-12), name


AXES = list(itertools.product(BY_STRETCHES, SCOPES, MASK_ON))
TURNS = 5  # parts of AXES; every part holds all signals, and all pairs of scope and mask_on


def check(kind: str, axes: list[tuple[str, str, str]]) -> None:
    for signal, scope, mask_on in axes:
        pair = Pair(MaskSpec(mask_ratio=0.7, signal=signal, scope=scope, mask_on=mask_on, moments="masked"), kind)
        for step in range(STEPS):
            pair.step(step)
    for signal in BY_STRETCHES:
        pair = Pair(MaskSpec(mask_ratio=0.7, signal=signal), kind, facts_entries=40)  # of 131: the same 40 on each side
        for step in range(STEPS):
            pair.step(step)
    for signal, keep in (("gradient", "smallest"), ("accumulated_gradient", "largest")):
        pair = Pair(MaskSpec(mask_ratio=0.7, signal=signal, keep=keep, scope="global", refresh=2), kind)
        for step in range(STEPS):
            pair.step(step)
            states = [mask.state_dict() for mask in pair.masks]  # and through a checkpoint after each step
            for mask in pair.masks:
                mask.detach()
            pair.attach()
            for mask, state in zip(pair.masks, states, strict=True):
                mask.load_state_dict(state)
    nan_on_one_process_is_refused_on_all(kind)
    if kind == "fsdp2":
        fsdp1_is_refused()
        masks_of_whole_parameters_are_refused()
    else:
        units_are_those_of_one_process()


def units_are_those_of_one_process() -> None:
    for grain, signal in zip(itertools.cycle(("row", "column", "tensor")), WITHOUT_ACTIVATIONS):
        scope, parameters = ("global", "all") if grain == "tensor" else ("tensor", "linear")
        pair = Pair(MaskSpec(mask_ratio=0.6, grain=grain, signal=signal, scope=scope, parameters=parameters), "ddp")
        for step in range(STEPS):
            pair.step(step)


def masks_of_whole_parameters_are_refused() -> None:
    for settings, which in (({"grain": "row"}, "grain=row"), ({"signal": "large_gradient_small_weight"}, "signal=")):
        model = wrap(a_model(), "fsdp2")
        with pytest.raises(ValueError, match=rf"{which}.* needs parameters that are whole, and .* is sharded: use DDP"):
            attach(model, torch.optim.AdamW(model.parameters()), MaskSpec(mask_ratio=0.5, **settings))


def fsdp1_is_refused() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(a_model(), device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="FSDP1 flattens its parameters"):
        attach(model, torch.optim.AdamW(model.parameters()), MaskSpec(mask_ratio=0.5))


def nan_on_one_process_is_refused_on_all(kind: str) -> None:
    for signal in ("gradient", "random"):
        pair = Pair(MaskSpec(mask_ratio=0.5, signal=signal), kind)
        pair.backward(0)
        first = next(iter(pair.sharded.parameters())).grad
        assert first is not None
        if kind == "ddp" or torch.distributed.get_rank() == 1:  # DDP has the same gradient everywhere
            (first.to_local() if hasattr(first, "to_local") else first)[0, 0] = float("nan")
        with pytest.raises(NonFiniteGradientError, match=r"the gradient of 0\.weight holds NaN or Inf at step 1"):
            pair.optimizers[0].step()


@pytest.mark.parametrize(("kind", "world_size", "turn"), [("ddp", 2, 0), ("fsdp2", 3, 1)])
def test_masks_equal_those_of_a_single_process(kind: str, world_size: int, turn: int) -> None:
    """Each case checks a fifth of the specs; the slow test checks all."""
    assert in_ranks(check, world_size, kind, AXES[turn::TURNS]) == [0] * world_size


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_masks_equal_those_of_a_single_process_for_every_spec(kind: str, world_size: int) -> None:
    assert in_ranks(check, world_size, kind, AXES) == [0] * world_size

"""SpIEL against its rule, computed by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmt.errors import UserError
from gmt.methods.gradient_mask import GradientMask
from gmt.methods.spiel import Spiel, SpielAtWork
from gmt.optimizers.cohorts import ages

pytestmark = pytest.mark.heavy

SETTINGS: dict[str, Any] = {"mask_ratio": 0.8, "refresh": 4, "collected": 2, "replaced": 0.5, "replaced_first": 0.5}
NAME = "layers.0.weight"


def spiel(**more: Any) -> Spiel:
    return Spiel(**{"name": "spiel", "exclude": [], **SETTINGS, **more})


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class Training:
    max_norm: float | None = None

    def __init__(self, method: Spiel | GradientMask, *, dtype: torch.dtype = torch.float32):
        self.model = Model().to(dtype)
        groups = [
            {
                "params": list(self.model.parameters()),
                "lr": 0.05,
                "weight_decay": 0.1,
                "betas": (0.9, 0.99),
                "eps": 1e-8,
            }
        ]
        self.optimizer: Any = method.make_optimizer(self.model, groups)  # type: ignore[arg-type]
        self.attached = method.attach(self.model, self.optimizer, seed=3, facts_every=1)
        self.gradients: list[Tensor] = []  # dense, of one weight, each micro-batch

    def step(self, number: int) -> None:
        weight = self.model.layers[0].weight
        for micro in range(2):
            x = torch.randn(5, 8, generator=torch.Generator().manual_seed(2 * number + micro)).to(self.weight.dtype)
            loss = (self.model(x) ** 3).sum()
            self.gradients.append(torch.autograd.grad(loss, weight, retain_graph=True)[0].flatten())
            loss.backward()
        if self.max_norm is not None:
            self.optimizer.clip_grad_norm_(self.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def steps(self, first: int, last: int) -> "Training":
        for number in range(first, last):
            self.step(number)
        return self

    @property
    def weight(self) -> nn.Parameter:
        weight: nn.Parameter = self.model.layers[0].weight  # type: ignore[assignment]
        return weight

    def supports(self) -> Any:
        assert isinstance(self.attached, SpielAtWork)
        return self.attached._supports

    def kept(self) -> Tensor:
        mask: Tensor = self.optimizer.support(self.weight).mask()
        return mask


def test_without_renewal_it_is_a_fixed_random_support() -> None:
    fixed = GradientMask(
        name="fixed", mask_ratio=0.8, signal="random", scope="tensor", refresh="once", mask_on="update",
        moments="packed", keep="largest", exclude=[], excluded="dense", parameters="linear_alone",
    )  # fmt: skip
    ours = Training(spiel(replaced=0, replaced_first=0)).steps(0, 10)
    theirs = Training(fixed).steps(0, 10)
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), theirs.model.parameters(), strict=True))


def test_entries_outside_the_support_have_the_bases_bits() -> None:
    training, base = Training(spiel(replaced_first=1.0)), Model()
    supports = set()
    for number in range(14):
        training.step(number)
        for p, q in zip(training.model.parameters(), base.parameters(), strict=True):
            support = training.optimizer.support(p)
            off = torch.ones(p.numel(), dtype=torch.bool) if support is None else ~support.mask()
            assert torch.equal(p.flatten()[off], q.flatten()[off])
        supports.add(tuple(training.kept().tolist()))
        assert int(training.kept().sum()) == 13  # 64 - floor(0.8 * 64)
    assert len(supports) == 4


def test_a_renewal_drops_what_moved_least_and_grows_the_largest_sums() -> None:
    training = Training(spiel()).steps(0, 3)
    old = training.kept()
    before = dict(training.optimizer.state[training.weight])
    training.step(3)
    first, *_ = collected = training.gradients[4:8]  # two steps of two micro-batches
    steps = [collected[0] + collected[1], collected[2] + collected[3]]
    candidates = first.abs().masked_fill(old, 0).topk(13).indices
    grown = candidates[(steps[0] + steps[1])[candidates].abs().topk(6).indices].sort().values
    assert torch.equal((training.kept() & ~old).nonzero().flatten(), grown)
    dropped = old & ~training.kept()
    moved = (reference_of_four_steps() - Model().layers[0].weight).abs().flatten()  # type: ignore[operator]
    assert torch.equal(
        dropped.nonzero().flatten(), moved.masked_fill(~old, 9).topk(6, largest=False).indices.sort().values
    )
    state, kept = training.optimizer.state[training.weight], training.kept().nonzero().flatten()
    at = torch.searchsorted(kept, grown)
    mean, square = (steps[0] + steps[1])[grown] / 2, (steps[0] ** 2 + steps[1] ** 2)[grown] / 2
    torch.testing.assert_close(state["exp_avg"][at], mean * (1 - 0.9**2))
    torch.testing.assert_close(state["exp_avg_sq"][at], square * (1 - 0.99**2))
    age_K = ages(state)
    assert age_K is not None
    assert age_K[at].tolist() == [2] * 6
    assert sorted(age_K.tolist()) == [2] * 6 + [4] * 7
    assert "age" not in before


def reference_of_four_steps() -> Tensor:
    """The weights after four steps without the renewal."""
    return Training(spiel(replaced=0, replaced_first=0)).steps(0, 4).weight.detach()


def test_it_counts_every_entry_that_was_in_a_support() -> None:
    training, ever = Training(spiel()), torch.zeros(64, dtype=torch.bool)
    other = torch.zeros(64, dtype=torch.bool)
    for number in range(13):
        training.step(number)
        ever |= training.kept()
        other |= training.optimizer.support(training.model.layers[1].weight).mask()
    assert isinstance(training.attached, SpielAtWork)
    assert training.attached.num_trained() == 2 * 13
    assert training.attached.num_touched() == int(ever.sum()) + int(other.sum()) > 2 * 13


def test_newcomers_that_have_not_trained_yet_do_not_count() -> None:
    training = Training(spiel()).steps(0, 4)
    assert isinstance(training.attached, SpielAtWork)
    assert training.attached.num_touched() == 2 * 13  # a renewal ends step 4
    again = Training(spiel())
    again.optimizer.load_state_dict(training.optimizer.state_dict())
    again.attached.load_state_dict(training.attached.state_dict())
    for resumed in (training, again):
        resumed.step(4)
        assert isinstance(resumed.attached, SpielAtWork)
        assert resumed.attached.num_touched() == 2 * (13 + 6)


def test_newcomers_begin_with_moments_of_clipped_gradients() -> None:
    training, clipped = Training(spiel()), Training(spiel())
    clipped.max_norm = 0.01
    for number in range(3):
        training.step(number)
        clipped.step(number)
    assert all(each.step_C.dtype == torch.float32 for each in clipped.supports()._candidates.values())
    candidates = clipped.supports()._candidates[NAME]
    expected = sum(clipped.gradients[4:6])[candidates.index_C] * clipped.optimizer.clipping  # type: ignore[index]
    assert clipped.optimizer.clipping < 0.1
    assert training.optimizer.clipping is None
    torch.testing.assert_close(candidates.sum_C, expected)
    torch.testing.assert_close(candidates.square_C, expected**2)


def test_sums_of_bfloat16_gradients_are_float32() -> None:
    training = Training(spiel(), dtype=torch.bfloat16).steps(0, 3)
    candidates = training.supports()._candidates[NAME]
    assert {x.dtype for x in (candidates.step_C, candidates.sum_C, candidates.square_C)} == {torch.float32}
    training.step(3)  # and the renewal takes them


def test_the_share_falls_with_the_learning_rate() -> None:
    training = Training(spiel()).steps(0, 5)
    training.optimizer.param_groups[0] |= {"initial_lr": 0.05, "lr": 0.02}
    old = training.kept()
    training.steps(5, 8)
    assert int((old & ~training.kept()).sum()) == int(13 * 0.5 * 0.4)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"refresh": 0}, r"method\.refresh must be a whole number of at least 1, got 0"),
        ({"collected": 5}, r"method\.collected must be at most method\.refresh=4, got 5"),
        ({"replaced": 1.0}, r"method\.replaced must lie in \[0, 1\), got 1\.0"),
        ({"replaced_first": 1.1}, r"method\.replaced_first must lie in \[0, 1\], got 1\.1"),
        ({"mask_ratio": 1}, r"method\.mask_ratio must lie in \[0, 1\), got 1"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        spiel(**more)

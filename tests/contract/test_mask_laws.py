"""The laws of the mask, for every signal x scope x mask_on x moments, against a reference that sorts and copies.

Those of rows, columns, heads and tensors, of scope=entropy and of moments=packed: test_grain_laws.py."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch

from gmt.masking import MaskSpec, attach
from gmt.masking.signals import row_of
from gmt.masking.spec import KEEP, MASK_ON, MOMENTS, SCOPES
from tests.mask_reference import LOOPS, OPTIMIZERS, a_model, backward, optimizer_of, reference, same, train
from tests.signals import WITHOUT_ACTIVATIONS

AXES = list(itertools.product(WITHOUT_ACTIVATIONS, SCOPES, MASK_ON, MOMENTS))


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

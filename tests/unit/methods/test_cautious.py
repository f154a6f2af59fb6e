"""Cautious AdamW: the paper's formula, and the entries that it has trained."""

import math

import pytest
import torch
from torch import nn

from gmt.masking.sampling import pick, sample_index
from gmt.methods.cautious import Cautious, CautiousAtWork
from gmt.methods.protocol import CountsEntries
from gmt.optimizers.cautious import CautiousAdamW


def test_cautious_adamw_is_the_papers_formula() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.5]))
    optimizer = CautiousAdamW([p], lr=0.1, weight_decay=0.2, betas=(0.9, 0.99))
    m, v, w = torch.zeros(4), torch.zeros(4), p.detach().clone()
    assert math.isnan(optimizer.kept_fraction)
    for step, gradient in enumerate(([1.0, 1.0, -1.0, 2.0], [-0.01, 1.0, 5.0, 2.0]), start=1):
        g = torch.tensor(gradient)
        p.grad = g.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        agree = (m * g > 0).float()
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.99**step)).sqrt() + 1e-8)
        w = w * (1 - 0.1 * 0.2) - 0.1 * update * agree / agree.mean()
        torch.testing.assert_close(p.detach(), w)
        assert optimizer.kept_fraction == agree.mean()
    assert optimizer.kept_fraction == 0.75  # the first entry's momentum disagrees


@pytest.mark.parametrize("measured", [1 << 18, 100])
def test_cautious_counts_the_entries_that_agreed_at_some_step(measured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmt.methods.cautious._MEASURED", measured)
    model = nn.Linear(40, 50, bias=False)
    optimizer = CautiousAdamW(model.parameters(), lr=0.1, weight_decay=0.2, betas=(0.9, 0.99))

    def attached() -> CautiousAtWork:
        return Cautious(name="cautious").attach(model, optimizer, seed=0, facts_every=1)

    generator = torch.Generator().manual_seed(1)
    work, m, ever = attached(), torch.zeros(50, 40), torch.zeros(50, 40, dtype=torch.bool)
    for step in range(4):
        g = torch.randn(50, 40, generator=generator) * (torch.rand(50, 40, generator=generator) < 0.3)
        model.weight.grad = g.clone()
        optimizer.step()
        m = 0.9 * m + 0.1 * g
        ever |= m * g > 0
        assert work.num_trained() == int((m * g > 0).sum())
        if step == 1:
            state = work.state_dict()
            work.detach()
            work = attached()
            work.load_state_dict(state)
    assert isinstance(work, CountsEntries)
    seen = pick(ever.flatten(), sample_index(model.weight, "weight", min(measured / 2000, 1)))
    assert work.num_touched() == round(2000 * float(seen.float().mean()))
    assert 0 < int(ever.sum()) < 2000
    assert measured < 2000 or work.num_touched() == int(ever.sum())
    work.load_state_dict({})  # of a checkpoint from before it was counted
    optimizer.step()
    assert work.num_touched() is None

"""A few steps of AdamW on what a method trains, without a trainer."""

from typing import Any

import torch

IDS = torch.arange(12)[None]


def train_few_steps(model: Any, *, steps: int, lr: float) -> None:
    """Train the parameters that require a gradient on one sequence."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()

"""Measures the CPU time of a masked AdamW step for several values of `facts_every`.

CPU time on one thread, so that other work on the machine counts less. Each choice takes a step in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from report import publish, table
from torch import nn

from gmt.masking import MaskSpec, attach

RATIO = 0.8
CHOICES = {"no mask": None, "facts off": 0, "every tenth step (default)": 10, "every step": 1}
SIZES = {"3.5 M": (661, 8), "21 M": (1621, 8)}  # width and number of square layers


def stepper(width: int, num_layers: int, facts_every: int | None) -> Callable[[], float]:
    """Return a function that takes one step with fresh gradients and returns its milliseconds of CPU time."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(num_layers)])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    if facts_every is not None:
        attach(model, optimizer, MaskSpec(mask_ratio=RATIO), facts_every=facts_every)
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.empty_like(p)

    def step() -> float:
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad.copy_(gradient)
        started = time.process_time()
        optimizer.step()
        return 1000 * (time.process_time() - started)

    return step


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decades", type=int, default=3, help="ten steps each; the first ten are not counted")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size, (width, num_layers) in SIZES.items():
        steppers = {name: stepper(width, num_layers, every) for name, every in CHOICES.items()}
        decades: dict[str, list[float]] = {name: [] for name in CHOICES}
        for _ in range(args.decades + 1):
            for name, step in steppers.items():
                decades[name].append(statistics.mean(step() for _ in range(10)))
        plain = statistics.median(decades["no mask"][1:])
        for name, means in decades.items():
            ms = statistics.median(means[1:])
            rows.append([size, name, f"{ms:.1f}", f"{ms / plain:.2f}"])
    publish(
        f"Facts: mask and optimizer of one step, mask ratio {RATIO}, fused AdamW, 262,144 entries looked at",
        [
            f"Milliseconds of CPU time on one thread: medians of {args.decades} means over ten steps, after ten that "
            "are not counted.",
            table(["parameters", "facts", "ms", "/ no mask"], rows),
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

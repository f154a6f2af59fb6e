"""Measures the CPU time of a masked training step for several values of `facts_every`.

A step is forward, backward, mask and optimizer. CPU time on one thread, so that other work on the machine counts less.
Each choice takes ten steps in turn. Forward and backward are the same for all choices, so that their time is the median
of all steps, and the ratios show what the mask, the facts and the optimizer change.
"""

import statistics
import time
from collections.abc import Callable

import torch
from publishing import publish, script_parser, table
from torch import nn

from gmt.masking import MaskSpec, attach

RATIO = 0.8
NUM_TOKENS = 256  # of a step, few for a training
LIMIT = 1.02
CHOICES = {"no mask": None, "facts off": 0, "every tenth step (default)": 10, "every step": 1}
SIZES = {"3.5 M": (661, 8), "21 M": (1621, 8)}  # width and number of square layers


def stepper(width: int, num_layers: int, facts_every: int | None) -> Callable[[], tuple[float, float]]:
    """Return a function that takes one step and returns the milliseconds of its two halves.

    The first is forward and backward, the second mask and optimizer.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(num_layers)])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    if facts_every is not None:
        attach(model, optimizer, MaskSpec(mask_ratio=RATIO), facts_every=facts_every)
    batch = torch.randn(NUM_TOKENS, width)

    def step() -> tuple[float, float]:
        started = time.process_time()
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        between = time.process_time()
        optimizer.step()
        return 1000 * (between - started), 1000 * (time.process_time() - between)

    return step


def main() -> None:
    """Measures and publishes."""
    parser = script_parser(__doc__)
    parser.add_argument("--decades", type=int, default=3, help="ten steps each; the first ten are not counted")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size, (width, num_layers) in SIZES.items():
        steppers = {name: stepper(width, num_layers, every) for name, every in CHOICES.items()}
        halves: list[float] = []
        decades: dict[str, list[float]] = {name: [] for name in CHOICES}
        for _ in range(args.decades + 1):
            for name, step in steppers.items():
                ten = [step() for _ in range(10)]
                halves += [first for first, _ in ten]
                decades[name].append(statistics.mean(second for _, second in ten))
        half = statistics.median(halves)
        means = {name: statistics.median(ms[1:]) for name, ms in decades.items()}
        for name, ms in means.items():
            rows.append([size, name, f"{half:.0f}", f"{ms:.1f}"])
            rows[-1] += [f"{(half + ms) / (half + means[other]):.3f}" for other in ("no mask", "facts off")]
    publish(
        f"Facts: a step of {NUM_TOKENS} tokens, mask ratio {RATIO}, fused AdamW, 262,144 entries looked at",
        [
            f"Milliseconds of CPU time on one thread: medians of {args.decades} means over ten steps, after ten that "
            "are not counted.",
            table(["parameters", "facts", "forward, backward", "mask, optimizer", "/ no mask", "/ facts off"], rows),
            f"Limit: {LIMIT} for the default beside facts off.",
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

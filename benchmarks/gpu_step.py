"""The cost of masks on a GPU beside plain AdamW: seconds of whole steps and peak memory, at the shapes of real models.

Each way trains a model of its own with random weights, one after the other, on the same tokens: forward, backward, mask
and optimizer, in bfloat16 (the 7B has its weights in bfloat16; the others theirs in float32, under autocast). Plain
AdamW is timed first and last: the two show how far one time may be trusted. Kernels are compiled before the timing.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from memory import model_of, with_lora
from publishing import publish, script_parser, table
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach
from gmt.optimizers.packed_adamw import PackedAdamW
from gmt.training.memory import peak_bytes, reset_peak, state_bytes

SHAPES = {"SmolLM2-135M": (16, 1024), "Llama-3.2-1B": (8, 1024), "Llama-2-7B": (2, 1024)}  # rows, tokens of a row
IN_BFLOAT16 = ("Llama-2-7B",)
PLAIN = "plain AdamW"
SPECS = {
    "gmt": MaskSpec(mask_ratio=0.8),
    "gmt, global": MaskSpec(mask_ratio=0.8, scope="global"),
    "gmt_update": MaskSpec(mask_ratio=0.8, mask_on="update"),
    "rmt": MaskSpec(mask_ratio=0.8, signal="random"),
    "sift, packed": MaskSpec(mask_ratio=0.95, refresh="once", mask_on="update", moments="packed"),
    "sift, packed, first micro-batch": MaskSpec(
        mask_ratio=0.95, refresh="once", mask_on="update", moments="packed", first_micro_batch=True
    ),
}
TOPK = "torch.topk in each tensor"
WAYS = (PLAIN, *SPECS, "LoRA", TOPK, PLAIN)


def keep_topk(parameters: list[nn.Parameter]) -> None:
    """Mask each gradient as the public trainer does."""
    for p in parameters:
        if p.grad is None:
            continue
        magnitude = p.grad.abs().flatten()
        mask = torch.zeros_like(magnitude, dtype=torch.bool)
        mask[torch.topk(magnitude, magnitude.numel() - int(0.8 * magnitude.numel())).indices] = True
        p.grad.mul_(mask.view(p.grad.shape))


def stepper(
    way: str, name: str, tokens: Tensor, accumulation_steps: int
) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    """Return the optimizer of a model of its own, and a function that takes one step."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if name in IN_BFLOAT16 else torch.float32
    torch.set_default_dtype(dtype)
    model = model_of(name, "cuda")
    torch.set_default_dtype(torch.float32)
    if way == "LoRA":
        model = with_lora(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    spec = SPECS.get(way)
    if spec is not None and spec.moments == "packed":
        optimizer: torch.optim.Optimizer = PackedAdamW(parameters, lr=1e-5)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    if spec is not None:
        attach(model, optimizer, spec)

    def step() -> None:
        for _ in range(accumulation_steps):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens).loss
            (loss / accumulation_steps).backward()
        if way == TOPK:
            keep_topk(parameters)
        optimizer.step()
        optimizer.zero_grad()

    return optimizer, step


def timed(way: str, name: str, rounds: int, accumulation_steps: int) -> tuple[float, list[float], int, int]:
    """Return the median seconds of the steps after the third, the seconds of each, the peak bytes, and the state's."""
    rows, length = SHAPES[name]
    tokens = torch.randint(0, 32000, (rows, length), device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    optimizer, step = stepper(way, name, tokens, accumulation_steps)
    seconds = []
    for number in range(-3, rounds):
        if number == 0:
            reset_peak()
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= 0:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), seconds, peak_bytes(), state_bytes(optimizer)


def step_table(name: str, ways: Sequence[str], rounds: int, accumulation_steps: int) -> str:
    """Return the times of all ways as a Markdown table."""
    rows, plain = [], 0.0
    for way in ways:
        try:
            median, seconds, peak, state = timed(way, name, rounds, accumulation_steps)
        except torch.OutOfMemoryError:
            rows.append([way, "out of memory", "", "", "", ""])
        else:
            plain = plain or median
            spread = f"{min(seconds):.4f} to {max(seconds):.4f}"
            rows.append(
                [way, f"{median:.4f}", spread, f"{median / plain:.3f}", f"{peak / 1e9:.2f}", f"{state / 1e9:.2f}"]
            )
        print(name, *rows[-1], file=sys.stderr, sep="; ", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    head = [name, "step, s", "fastest to slowest, s", "beside plain", "peak, GB", "optimizer state, GB"]
    return table(head, rows)


def main() -> None:
    """Measures."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="whose shapes")
    parser.add_argument("--ways", nargs="+", choices=WAYS[:-1], default=list(WAYS[:-1]), help="default: all")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed (default: 20)")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches of a step (default: 1)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU here")
    num_tokens = {name: args.accumulate * SHAPES[name][0] * SHAPES[name][1] for name in args.models}
    tokens = ", ".join(f"{num:,} for {name}" for name, num in num_tokens.items())
    ways = [PLAIN, *(way for way in args.ways if way != PLAIN), PLAIN]
    parts = [step_table(name, ways, args.rounds, args.accumulate) for name in args.models]
    publish(
        "A masked step on a GPU, beside plain AdamW's",
        [f"Tokens of a step: {tokens}. The peak is of all steps but the first three.", *parts],
        args.out,
    )


if __name__ == "__main__":
    main()

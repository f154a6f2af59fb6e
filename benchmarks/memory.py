"""Measures memory and time of trainings of few entries, beside plain AdamW, 8-bit AdamW and LoRA of as many entries.

By formula for models of any size, from the shapes of their parameters alone (on the device meta); and measured, with
real steps in a process of its own for each way, for nano and for a model of SmolLM2-135M's shape. Activations are the
same for all ways and in no formula.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from publishing import publish, script_parser, table
from torch import nn

from gmt.masking import MaskSpec, attach
from gmt.masking.rule import num_masked
from gmt.optimizers.packed_adamw import PackedAdamW
from gmt.training.memory import peak_bytes, reset_peak, state_bytes

LIMIT_TIME = 1.05  # of a plain step
RATIO = 0.95  # of SIFT
BYTES = 4  # of a weight, a gradient and a moment in float32
BLOCK = 256  # entries of an 8-bit state that share a float32 scale, in bitsandbytes (Dettmers et al., arXiv 2110.02861)
SMALLEST_IN_8_BITS = 4096  # entries: bitsandbytes keeps float32 for smaller tensors
CONFIGS: dict[str, dict[str, Any]] = {
    "nano": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 4, "vocab_size": 256, "tie_word_embeddings": True},
    "SmolLM2-135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "Llama-3.2-1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                     "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "Llama-2-7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip
WAYS = ("plain AdamW", "8-bit AdamW", "masked moments", "packed", "packed, first micro-batch", "LoRA")


def model_of(name: str, device: str) -> nn.Module:
    """Return a Llama of a model's shape with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**CONFIGS[name])).train()


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a way of training takes, without activations.

    Args:
        trained: entries that train.
        weights: with an adapter's.
        gradients: the most that exist at once.
        state: of the optimizer.
        mask: with masked moments: a byte an entry, and at each step copies of the weights and of both moments.
    """

    trained: int
    weights: int
    gradients: int
    state: int
    mask: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.state + self.mask


def needs(sizes: Sequence[int]) -> dict[str, Need]:
    """Return what each way takes, by formula.

    Args:
        sizes: entries of each parameter.
    """
    every, num_tensors = sum(sizes), len(sizes)
    kept = [size - num_masked(RATIO, size) for size in sizes]
    num_kept, steps = sum(kept), BYTES * num_tensors  # each tensor has a count of steps
    small = sum(size for size in sizes if size < SMALLEST_IN_8_BITS)
    eight = 2 * BYTES * small + sum(
        2 * (size + BYTES * -(-size // BLOCK)) for size in sizes if size >= SMALLEST_IN_8_BITS
    )
    support = sum(min(-(-size // 8), BYTES * k) for size, k in zip(sizes, kept, strict=True))
    packed_state = 2 * BYTES * num_kept + support + steps
    dense = BYTES * every
    return {
        "plain AdamW": Need(trained=every, weights=dense, gradients=dense, state=2 * dense + steps),
        "8-bit AdamW": Need(trained=every, weights=dense, gradients=dense, state=eight),
        "masked moments": Need(
            trained=num_kept, weights=dense, gradients=dense, state=2 * dense + steps, mask=every + 3 * dense
        ),
        "packed": Need(trained=num_kept, weights=dense, gradients=dense, state=packed_state),
        "packed, first micro-batch": Need(
            trained=num_kept, weights=dense, gradients=BYTES * (num_kept + max(sizes)), state=packed_state
        ),
        "LoRA": Need(
            trained=num_kept, weights=dense + BYTES * num_kept, gradients=BYTES * num_kept, state=2 * BYTES * num_kept
        ),
    }


def formula_table(name: str) -> str:
    """Return what a model needs, as a Markdown table in GB (10^9 bytes)."""
    rows = [
        [
            way,
            f"{need.trained / 1e6:,.0f}",
            *(f"{n / 1e9:.2f}" for n in (need.weights, need.gradients, need.state, need.mask, need.total)),
        ]
        for way, need in needs([p.numel() for p in model_of(name, "meta").parameters()]).items()
    ]
    figures = ("weights", "gradients", "optimizer state", "mask and copies", "together")
    return table([name, "trained, M", *(f"{figure}, GB" for figure in figures)], rows)


def stepper(way: str, model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], int]]:
    """Return the model, the optimizer, and what counts the bytes of gradients that exist."""
    if way == "LoRA":
        model = with_lora(model)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def dense_bytes() -> int:
        return sum(p.grad.numel() * p.grad.element_size() for p in parameters if p.grad is not None)

    if way.startswith("packed"):
        packed = PackedAdamW(parameters, lr=1e-6)
        spec = MaskSpec(
            mask_ratio=RATIO, refresh="once", mask_on="update", moments="packed", first_micro_batch="first" in way
        )
        attach(model, packed, spec, facts_every=0)
        return model, packed, lambda: sum(g.numel() * g.element_size() for _, g in packed.gathered())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    if way == "masked moments":
        spec = MaskSpec(mask_ratio=RATIO, refresh="once", mask_on="update", moments="masked")
        attach(model, optimizer, spec, facts_every=0)
    return model, optimizer, dense_bytes


def with_lora(model: nn.Module) -> nn.Module:
    """Return the model with LoRA of about as many entries as the mask keeps."""
    from peft import LoraConfig, get_peft_model

    num_kept = needs([p.numel() for p in model.parameters()])["LoRA"].trained
    linear = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in name]
    rank = max(round(num_kept / sum(m.in_features + m.out_features for m in linear)), 1)
    return get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))


def measure(name: str, way: str, num_tokens: int) -> None:
    """Print the bytes of three steps of two micro-batches each: weights, state, gradients after the last, the peak."""
    torch.manual_seed(0)
    model = model_of(name, "cpu")
    model, optimizer, gradient_bytes = stepper(way, model)
    tokens = torch.randint(0, 200, (2, 2, num_tokens // 4))
    held = 0
    for step in range(3):
        if step == 1:
            reset_peak()  # the first step ranks by gradients that are all dense, and begins the state
        for micro in tokens:
            (model(input_ids=micro, labels=micro).loss / 2).backward()
        held = gradient_bytes()
        optimizer.step()
        optimizer.zero_grad()
    print(weight_bytes(model), state_bytes(optimizer), held, peak_bytes())


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters, tied ones counted once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def measured_table(name: str, num_tokens: int) -> str:
    """Return what was measured of a model beside the formula, as a Markdown table in MB (10^6 bytes)."""
    by_formula = needs([p.numel() for p in model_of(name, "meta").parameters()])
    rows, plain = [], 0
    for way in (way for way in WAYS if way != "8-bit AdamW"):
        command = [sys.executable, __file__, "--measure", name, way, "--tokens", str(num_tokens)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
        weights, state, held, peak = map(int, done.stdout.split()[-4:])
        plain = plain or peak
        need = by_formula[way]
        figures = [f"{n / 1e6:,.1f}" for n in (weights, need.weights, state, need.state, held, peak)]
        rows.append([way, *figures, f"{(plain - peak) / 1e6:,.0f}"])
        print(*rows[-1], file=sys.stderr)
    head = [
        name,
        "weights, MB",
        "by formula, MB",
        "state, MB",
        "by formula, MB",
        "gradients at the step, MB",
        "peak of later steps, MB",
        "below plain, MB",
    ]
    return table(head, rows)


def time_table(name: str, num_tokens: int, rounds: int) -> str:
    """Return the seconds of whole steps as a Markdown table: plain and packed in turn, each on a model of its own."""
    tokens = torch.randint(0, 200, (num_tokens // 128, 128))
    steppers = {}
    for way in ("plain AdamW", "packed"):
        torch.manual_seed(0)
        model, optimizer, _ = stepper(way, model_of(name, "cpu"))
        steppers[way] = (model, optimizer)
    parts: dict[str, list[tuple[float, float]]] = {way: [] for way in steppers}
    for number in range(-2, rounds):  # the first rounds warm up, and rank
        order = list(steppers)[:: 1 if number % 2 else -1]
        for way in order:
            model, optimizer = steppers[way]
            started = time.perf_counter()
            model(input_ids=tokens, labels=tokens).loss.backward()
            between = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad()
            if number >= 0:
                parts[way].append((between - started, time.perf_counter() - between))
        print(number, {way: seconds[-1:] for way, seconds in parts.items()}, file=sys.stderr)
    whole = {way: [sum(seconds) for seconds in each] for way, each in parts.items()}
    ratios = [ours / plain for ours, plain in zip(whole["packed"], whole["plain AdamW"], strict=True)]
    rows = [
        [
            way,
            *(f"{statistics.median(part):.3f}" for part in zip(*each, strict=True)),
            f"{statistics.median(whole[way]):.3f}",
        ]
        for way, each in parts.items()
    ]
    shown = f"Packed / plain: {statistics.median(ratios):.3f} in the median of {rounds} rounds ({min(ratios):.3f} to "
    head = [name, "forward + backward, s", "optimizer, s", "step, s"]
    return f"{table(head, rows)}\n\n{shown}{max(ratios):.3f}); the limit is {LIMIT_TIME}."


def main() -> None:
    """Reports the formula, and measures."""
    parser = script_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="measure nano alone")
    parser.add_argument(
        "--tokens", type=int, default=512, help="tokens of a measured step, a multiple of 4 (default: 512)"
    )
    parser.add_argument("--rounds", type=int, default=0, help="time so many rounds of steps, and nothing else")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure, args.tokens)
        return
    measured = ["nano"] if args.quick else ["nano", "SmolLM2-135M"]
    if args.rounds:
        publish("A step that is packed, beside plain AdamW's", [time_table(measured[-1], 1024, args.rounds)], args.out)
        return
    publish(
        f"Memory of a training in float32 that keeps {1 - RATIO:.0%} of the entries",
        [
            "By formula, without activations:",
            *(formula_table(name) for name in CONFIGS if name != "nano"),
            "Gradients: the most that exist at once. Those of `packed` are dense at its first step alone, which ranks "
            "by them; later they are as with the first micro-batch. Masked moments hold a mask of a byte an entry, and "
            "copy the weights and both moments at each step.",
            f"Measured over three steps of {args.tokens} tokens in two micro-batches. The peak is that of the process "
            "from the second step on, with its libraries and activations. 8-bit AdamW needs bitsandbytes and a GPU.",
            *(measured_table(name, args.tokens) for name in measured),
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

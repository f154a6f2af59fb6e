"""How the selection's time grows with the number of entries, beside one read of them and beside torch's own ways.

Times are wall clock; with --cpu they are CPU time on one thread, which other work on the machine changes less.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from publishing import publish, script_parser, table
from torch import Tensor

from gmt.masking.rule import CHUNK, Scores, num_masked
from gmt.masking.selection import select

RATIO = 0.8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def best_of(way: Callable[[], object], *, clock: Callable[[], float], at_least: int = 3, seconds: float = 1.0) -> float:
    """The shortest of some runs, at least three and a second of them."""
    way()
    times: list[float] = []
    while len(times) < at_least or sum(times) < seconds:
        started = clock()
        way()
        times.append(clock() - started)
    return min(times)


def gradients(num: int, dtype: torch.dtype) -> Tensor:
    """Heavy-tailed like gradients: the product of two normal draws."""
    torch.manual_seed(0)
    x = torch.empty(num, dtype=dtype)
    for part in x.split(CHUNK):
        part.copy_(torch.randn(len(part)) * torch.randn(len(part)) * 1e-4)
    return x


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--largest", type=int, default=1000, help="millions of entries of the largest (default: 1000)")
    parser.add_argument("--peers-up-to", type=int, default=10, help="millions of entries (default: 10)")
    parser.add_argument("--cpu", action="store_true", help="CPU time on one thread instead of wall clock")
    args = parser.parse_args()
    if args.cpu:
        torch.set_num_threads(1)
    best = partial(best_of, clock=time.process_time if args.cpu else time.perf_counter)
    rows = []
    for name, dtype in DTYPES.items():
        for millions in (m for m in (1, 10, 100, 1000) if m <= args.largest):
            x = gradients(millions * 1_000_000, dtype)
            scores = Scores(
                chunks=lambda x=x: iter(x.split(CHUNK)), dtype=x.dtype, num_entries=len(x), shards=None, device=x.device
            )
            k = num_masked(RATIO, len(x)) + 1
            read, norm = best(x.sum), best(lambda x=x: torch.linalg.vector_norm(x))
            ours = best(lambda scores=scores: select([[scores]], RATIO))
            row = [name, f"{millions} M", f"{ours * 1e3:.1f}", f"{ours / len(x) * 1e9:.2f}"]
            row += [
                f"{ours / norm:.1f}",
                f"{ours / read:.1f}",
                f"{x.nbytes / ours / 1e9:.1f}",
                f"{x.nbytes / read / 1e9:.1f}",
            ]
            if millions <= args.peers_up_to:
                row += [f"{best(lambda x=x, k=k: x.abs().kthvalue(k)) / ours:.0f}"]
                row += [f"{best(lambda x=x, k=k: x.abs().topk(len(x) - k + 1)) / ours:.0f}"]
                row += [f"{best(lambda x=x: x.abs().sort()) / ours:.0f}"]
            else:
                row += ["", "", ""]
            rows.append(row)
            print("\t".join(row), flush=True)
    head = ["dtype", "entries", "ours, ms", "ns an entry", "/ norm", "/ sum", "ours, GB/s", "sum, GB/s"]
    publish(
        f"Selection of the exact threshold of one tensor, mask ratio {RATIO}",
        [
            f"{'CPU time on one thread. ' if args.cpu else ''}Ours against one read of the tensor (its norm; its sum, "
            "the limit of the memory's bandwidth), and how "
            "many times as long torch's own ways take.",
            table([*head, "kthvalue", "topk", "sort"], rows),
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

"""The speed of the Triton kernels on a GPU beside that of a copy, and of the whole selection beside torch's own ways.

Bytes are those that a kernel must move at least: each input read once, each output written once.
"""

import sys
from collections.abc import Callable

import torch
from publishing import publish, script_parser, table
from torch import Tensor
from triton.testing import do_bench

from gmt.masking.counting import as_bits, fields
from gmt.masking.packing import pack
from gmt.masking.random_bits import keys
from gmt.masking.rule import LARGEST_BITS, Scores, Selection
from gmt.masking.selection import select
from gmt.masking.support import Support
from gmt.masking.triton_bracket import buffers_of, split
from gmt.masking.triton_entries import bounds_of, keep_inside, restore_unkept, zero_outside
from gmt.masking.triton_kernels import field_counts, random_bits
from gmt.masking.triton_tables import Piece, by_kind

NUM = 1 << 28  # entries, more than the caches hold
RATIO = 0.8


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median."""
    return float(do_bench(call, warmup=50, rep=200, return_mode="median"))


def kernel_rows(x_N: Tensor) -> list[list[str]]:
    """Return what each kernel takes on one dtype."""
    num, width = len(x_N), x_N.element_size()
    out_N, prefix_G = torch.empty_like(x_N), torch.zeros(1, dtype=torch.int64, device=x_N.device)
    keep_N = x_N.abs() > 1.2816 if x_N.dtype == torch.float32 else x_N.abs() > 2
    support = Support(pack(keep_N), num, int(keep_N.sum()))
    x_K = support.gather(x_N)
    kept = len(x_K) * width
    largest = Selection(lowest=0x3F800000, highest=LARGEST_BITS, num_entries=num, num_kept=0, is_finite=True)
    bounds = bounds_of([largest], x_N.device)
    low, high = (as_bits(torch.tensor([x], device=x_N.device)).long() for x in (1.27, 1.30))  # about 1 % lie between
    counts_GF, buffers = torch.zeros(1, 6, dtype=torch.int64, device=x_N.device), buffers_of([num // 50], x_N.device)
    (pieces,) = by_kind([Piece(scores=x_N, draw=None, size=num)])
    (first, second, *_) = fields([x_N.dtype])
    prefix = 0x3F800000 >> second[0] + second[1]  # magnitudes from 1 to 2, or some of them
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "copy": (lambda: out_N.copy_(x_N), 2 * width * num),
        "first count": (lambda: field_counts([lambda: iter([x_N])], prefix_G, *first), width * num),
        "second count": (lambda: field_counts([lambda: iter([x_N])], prefix_G + prefix, *second), width * num),
        "count around two bounds": (
            lambda: split(pieces, [0], low, high, counts_GF.zero_(), buffers, needs_zeros=False),
            width * num,
        ),
        "zeroing": (lambda: zero_outside([(out_N, None)], [0], bounds), 2 * width * num),
        "mask": (lambda: keep_inside([(x_N, None)], bounds, [keep_N]), (width + 1) * num),
        "restoring": (lambda: restore_unkept([(out_N, x_N, keep_N)]), (3 * width + 1) * num),
        "gather": (lambda: support.gather(x_N), width * num + num // 8 + kept),
        "scatter": (lambda: support.scatter_(out_N, x_K), num // 8 + 2 * kept),
        "draw": (lambda: random_bits(num, keys(0, 0, "x"), start=0, device=x_N.device), 4 * num),
    }
    rows = []
    for name, (call, num_bytes) in calls.items():
        taken = milliseconds(call)
        rows.append([f"{name}, {x_N.dtype}".replace("torch.", ""), f"{taken:.3f}", f"{num_bytes / taken / 1e6:,.0f}"])
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def selection_rows(x_N: Tensor) -> list[list[str]]:
    """Return what choosing a fifth of the entries takes."""
    masked = int(RATIO * len(x_N))
    scores = Scores(
        chunks=lambda: iter([x_N]), dtype=x_N.dtype, num_entries=len(x_N), shards=None, device=x_N.device, is_view=True
    )
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: select([[scores]], RATIO),
        "torch.topk": lambda: torch.topk(x_N.abs(), len(x_N) - masked),
        "torch.kthvalue": lambda: x_N.abs().kthvalue(masked + 1),
        "torch.sort": lambda: x_N.abs().sort(),
    }
    times = {}
    for name, way in ways.items():
        try:
            times[name] = milliseconds(way)
        except RuntimeError as error:
            print(name, error, file=sys.stderr)
        torch.cuda.empty_cache()
    dtype = str(x_N.dtype).replace("torch.", "")
    rows = [[f"{name}, {dtype}", f"{taken:.2f}", f"{taken / times['ours']:.1f}"] for name, taken in times.items()]
    for row in rows:
        print(*row, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measures."""
    args = script_parser(__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU here")
    kernels, selections = [], []
    for dtype in (torch.float32, torch.bfloat16):
        x_N = torch.randn(NUM, device="cuda").to(dtype)
        kernels += kernel_rows(x_N)
        selections += selection_rows(x_N[: NUM // 4].clone())
    publish(
        "The kernels on a GPU",
        [
            f"Each on {NUM:,} normal draws; medians.",
            table(["kernel", "ms", "GB/s"], kernels),
            f"The largest {1 - RATIO:.0%} of {NUM // 4:,} entries:",
            table(["selection", "ms", "beside ours"], selections),
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

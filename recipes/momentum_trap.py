"""What moves when a gradient is masked, and when an update is: measured on nano, drawn for docs/masking.md.

python recipes/momentum_trap.py docs/momentum_trap    (writes .csv and .png; a minute on two cores)
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from transformers import DataCollatorForSeq2Seq

from gmt.composition import Composer, hydra_on
from gmt.masking import MaskSpec, attach
from gmt.runs.build import Run, build
from gmt.runs.prepare import prepare
from gmt.tasks.tokens import IGNORED

matplotlib.use("Agg")  # no window system is needed

from matplotlib.figure import Figure  # the backend must be set first

GMT = MaskSpec(mask_ratio=0.8)
ARMS = {
    "plain AdamW": (replace(GMT, mask_ratio=0.0), 0.0),
    "gradient masked": (GMT, 0.0),
    "gradient masked, weight decay 0.1": (GMT, 0.1),
    "update masked, weight decay 0.1": (replace(GMT, mask_on="update"), 0.1),
}
FACTS = {
    "moved_fraction": "entries that moved at the step, %",
    "touched_fraction": "entries that ever moved, %",
    "masked_update_energy": "update's energy on masked entries, %",
}


def measure(run: Run, spec: MaskSpec, weight_decay: float, num_steps: int) -> list[dict[str, float]]:
    """The facts of each step of a plain loop over the quickstart's task, with its learning rate, constant."""
    torch.manual_seed(1)
    model, prepared = run.model.load_model(), prepare(run)
    collate = DataCollatorForSeq2Seq(prepared.reader.tokenizer, label_pad_token_id=IGNORED)
    loader = torch.utils.data.DataLoader(list(prepared.examples), 32, shuffle=True, collate_fn=collate)
    betas = (run.train.adam_beta1, run.train.adam_beta2)
    lr = run.train.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)
    mask = attach(model, optimizer, spec, facts_every=1)
    rows = []
    for batch in itertools.islice(itertools.cycle(loader), num_steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.train.max_grad_norm)
        optimizer.step()
        facts = mask.facts()
        assert facts is not None
        assert facts.measured is not None
        rows.append(
            {"step": facts.step, "density": facts.density} | {f: getattr(facts.measured.model, f) for f in FACTS}
        )
    return rows


def draw(table: pd.DataFrame) -> Figure:
    """One axis for each fact, one line for each arm."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for axis, (fact, label) in zip(figure.subplots(1, len(FACTS)), FACTS.items(), strict=True):
        for (arm, rows), colour, style in zip(
            table.groupby("arm", sort=False), colours, (":", "-", "--", "-."), strict=True
        ):
            axis.plot(rows["step"], 100 * rows[fact], style, color=colour, label=arm)
        axis.set(xlabel="optimizer step", ylabel=label, ylim=(-3, 103))
        axis.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8, frameon=False, loc="center right")
    return figure


def main() -> None:
    """Measures, writes and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the files' path without its ending")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (default: 200)")
    args = parser.parse_args()
    with hydra_on(None):
        run = build(Composer().compose_plain([]))
    rows = []
    for arm, (spec, weight_decay) in ARMS.items():
        rows += [{"arm": arm} | row for row in measure(run, spec, weight_decay, args.steps)]
        print(f"{arm}: {rows[-1]}", flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(args.out.with_suffix(".csv"), index=False, float_format="%.4f")
    draw(table).savefig(args.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()

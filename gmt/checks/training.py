"""Laws of a run, each tried by a short run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from gmt.checks.saved_weights import difference, faults_of_saved, files_in_words
from gmt.checks.short_runs import RunEnd, ShortRuns
from gmt.checks.verdict import Verdict

TRAINS = "it trains"
FINITE = "its facts are finite numbers"
SAVES = "its saved weights are safetensors, and load again"
RESUMES = "killed with SIGKILL, it resumes from its checkpoint and ends with the same weights, bit for bit"
WATCHED = "an evaluation during training changes nothing"
CUT = "smaller micro-batches give the same optimizer step"
BF16 = "it trains in bf16"
DPO = "it trains by DPO against its base"
DDP = "two workers (DDP) give the same weights as one worker"
FSDP = "two workers with a shard of the weights each (FSDP2) give the same weights as one worker"
_ROUNDING = 0.1  # of the norm of a training's change: rounding decides whether an entry at a threshold is masked
_COMMON = ("train/", "time/", "eval/", "system/")  # the prefixes of metrics that every run logs
_DRAW_BY_SEED = "draw from a generator that `seed` alone decides, and put all that a later step needs into state_dict()"


def laws_of_training(runs: ShortRuns) -> Iterator[Verdict]:
    """Yield a verdict on each law; only the first, if the run does not finish or changes nothing."""
    reference = runs.execute()
    yield (verdict := trains(reference))
    if verdict.state == "broken":
        return
    yield finite(reference)
    yield saves(reference)
    yield resumes(reference, runs)
    yield from (law(reference, runs) for law in (_watched, _cut, _bf16, _dpo, _ddp, _fsdp))


def trains(run: RunEnd, law: str = TRAINS) -> Verdict:
    """Return the verdict on whether a run finishes and changes the model."""
    if run.state != "done":
        return Verdict(law=law, state="broken", detail=f"the run is {run.state}: {run.sentence}")
    result, losses = run.record.result(), _losses(run)
    if not result.moved_fraction and not result.num_added:
        detail = "no entry of the model moved: its parameters must reach the optimizer, and get gradients"
        return Verdict(law=law, state="broken", detail=detail)
    return Verdict(
        law=law,
        state="holds",
        detail=f"{result.num_steps} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}; trains "
        f"{result.num_trainable:,} parameters, adds {result.num_added:,}, and moves {result.moved_fraction:.1%}",
    )


def finite(run: RunEnd) -> Verdict:
    """Return the verdict on whether all values that a run logged are finite."""
    rows, _ = run.record.metrics()
    values = [(row["step"], name, value) for row in rows for name, value in row.items() if name not in ("step", "time")]
    for step, name, value in values:
        if not isinstance(value, int | float) or not math.isfinite(value):
            detail = f"{name} is {value!r} at step {step}: facts() must give finite numbers"
            return Verdict(law=FINITE, state="broken", detail=detail)
        if name == "mask/density" and not 0 <= value <= 1:
            return Verdict(law=FINITE, state="broken", detail=f"density is {value} at step {step}, outside [0, 1]")
    method_facts = dict.fromkeys(
        name for _, name, _ in values if not name.startswith(_COMMON) and "/layers/" not in name
    )
    return Verdict(law=FINITE, state="holds", detail=", ".join(method_facts) or "it logs no facts of its own")


def saves(run: RunEnd) -> Verdict:
    """Return the verdict on whether the saved weights of a run load again."""
    if faults := faults_of_saved(run.record):
        return Verdict(law=SAVES, state="broken", detail="; ".join(faults))
    return Verdict(law=SAVES, state="holds", detail=files_in_words(run.record))


def resumes(reference: RunEnd, runs: ShortRuns) -> Verdict:
    """Return the verdict on whether a run that is killed with SIGKILL and resumed ends as the reference run did."""
    last = reference.record.result().num_steps - 2
    kill_after = last - last % 2
    if kill_after < 2:
        return Verdict(law=RESUMES, state="skipped", detail="the run has fewer than four steps")
    killed = runs.execute(kill_after=kill_after)
    if killed.state == "done":
        detail = f"the run ended before the kill that was due in the step after {kill_after}: it saved no checkpoint"
        return Verdict(law=RESUMES, state="broken", detail=detail)
    resumed = runs.execute() if killed.state == "killed" else killed
    if resumed.state != "done":
        detail = f"the run is {resumed.state} when it resumes after step {kill_after}: {resumed.sentence}"
        return Verdict(law=RESUMES, state="broken", detail=detail)
    if same(reference, resumed):
        return Verdict(law=RESUMES, state="holds", detail=f"killed in the step after {kill_after}")
    repeated = runs.execute()
    if not same(reference, repeated):
        detail = f"two runs differ even without a kill: {_DRAW_BY_SEED}"
        return Verdict(law=RESUMES, state="broken", detail=detail)
    detail = f"{_difference_in_words(reference, resumed)} after a kill in the step after {kill_after}: {_DRAW_BY_SEED}"
    return Verdict(law=RESUMES, state="broken", detail=detail)


def _watched(reference: RunEnd, runs: ShortRuns) -> Verdict:
    run = runs.execute({"record.evaluate_every": 2})
    return _verdict(WATCHED, run, lambda: None if same(reference, run) else _difference_in_words(reference, run))


def _cut(reference: RunEnd, runs: ShortRuns) -> Verdict:
    size, steps = (runs.config["train"][name] for name in ("micro_batch_size", "accumulation_steps"))
    if size == 1 or runs.config["train"]["packing"]:
        return Verdict(law=CUT, state="skipped", detail="its micro-batches have one row, or packed rows")
    run = runs.execute({"train.micro_batch_size": size // 2, "train.accumulation_steps": steps * 2})
    remedy = "act at the optimizer's step, and not on the gradient of each backward pass"
    return _verdict(CUT, run, lambda: _beyond_rounding(reference, run, runs, remedy))


def _bf16(reference: RunEnd, runs: ShortRuns) -> Verdict:
    run = runs.execute({"train.precision": "bf16"})
    return _verdict(BF16, run, lambda: None)


def _dpo(reference: RunEnd, runs: ShortRuns) -> Verdict:
    if runs.config["train"]["paradigm"] == "dpo":
        return Verdict(law=DPO, state="skipped", detail="it trains by DPO already")
    changes = {"train.paradigm": "dpo", "train.dpo_beta": 0.1, "train.packing": False, "task.as_preferences": True}
    run = runs.execute(changes)

    def fault() -> str | None:
        losses = _losses(run)
        if len(losses) > 1 and max(losses) - min(losses) < 1e-9:
            return f"its loss stays at {losses[0]:.6f}: the reference model changes too, and must stay the base"
        return None

    return _verdict(DPO, run, fault)


def _ddp(reference: RunEnd, runs: ShortRuns) -> Verdict:
    run = runs.execute(workers=2)
    remedy = "work on several workers, or refuse them by faults_with_workers (docs/adding.md)"
    return _verdict(DDP, run, lambda: _beyond_rounding(reference, run, runs, _DRAW_BY_SEED), remedy)


def _fsdp(reference: RunEnd, runs: ShortRuns) -> Verdict:
    run = runs.execute({"resources.sharding": "fsdp"}, workers=2)
    remedy = "work on the local shard (gmt.masking.sharding), or refuse shards by faults_when_sharded (docs/adding.md)"
    return _verdict(FSDP, run, lambda: _beyond_rounding(reference, run, runs, remedy), remedy)


def _verdict(law: str, run: RunEnd, fault: Callable[[], str | None], remedy: str = "") -> Verdict:
    """Return the verdict on a run.

    Args:
        law: the law.
        run: the run that shows whether the law holds.
        fault: returns the fault of a finished run, or None.
        remedy: what a run that failed must do.
    """
    if run.state == "refused":
        return Verdict(law=law, state="refused", detail=run.sentence)
    if run.state != "done":
        detail = f"the run is {run.state}: {run.sentence}" + (f"; {remedy}" if remedy else "")
        return Verdict(law=law, state="broken", detail=detail)
    if (sentence := fault()) is not None:
        return Verdict(law=law, state="broken", detail=sentence)
    return Verdict(law=law, state="holds")


def _losses(done: RunEnd) -> list[float]:
    return [row["train/loss"] for row in done.record.metrics()[0] if "train/loss" in row]


def same(one: RunEnd, other: RunEnd) -> bool:
    """Return whether two runs have the same weights, bit for bit, and the same scores."""
    a, b = one.record.result(), other.record.result()
    return (a.weights_sha256, a.after) == (b.weights_sha256, b.after) and not difference(one.record, other.record)


def _difference_in_words(one: RunEnd, other: RunEnd) -> str:
    for step, (a, b) in enumerate(zip(_losses(one), _losses(other), strict=False), start=1):
        if a != b:
            return f"the weights differ, and the loss from step {step} on ({a:.6f} and {b:.6f})"
    return "the weights differ, although no logged loss does"


def _beyond_rounding(reference: RunEnd, run: RunEnd, runs: ShortRuns, remedy: str) -> str | None:
    if same(reference, run):
        return None
    untrained = runs.execute({"train.learning_rate": 1e-30})  # the same shapes before anything is learnt
    if untrained.state != "done":
        return f"a run with train.learning_rate=1e-30 is {untrained.state}: {untrained.sentence}"
    relative = difference(reference.record, run.record) / (difference(untrained.record, reference.record) or math.nan)
    if relative <= _ROUNDING:
        return None
    return f"{_difference_in_words(reference, run)}, by {relative:.0%} of the training's change: {remedy}"

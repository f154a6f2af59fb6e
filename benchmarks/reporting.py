"""How long `gmt report` takes: the whole command, on studies of 24 and of 1,000 runs.

The runs are made up. Their records hold what those of nano's tasks hold but for weights: 850 answers before and after,
the metrics of five logs with facts on masks in six layers.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finished_result import finished_result
from planning import command_s
from publishing import publish, script_parser, table

from gmt.records.digests import digests_at_the_end
from gmt.studies.opened import planned
from gmt.studies.plan import PlannedRun

LIMITS_S = {24: 5.0, 1_000: 20.0}
SUITES = {
    "target": {"target": 200},
    "source": dict.fromkeys(("addition", "counting", "spelling", "months", "days"), 130),
}
LAYERS = [f"model.layers.{number}" for number in range(6)]
ARMS = ("gmt", "rmt", "gmt_update", "gasdu")
WIDE = {
    "name": "wide",
    "question": "How long does its report take?",
    "shared": {"task": ["long_words", "three_sums"], "train": "quickstart", "seed": list(range(1, 11))},
    "arms": {"sft": {"method": "sft"}, "hft": {"method": "hft"}}
    | {arm: {"method": arm, "method.mask_ratio": [round(0.08 * n, 2) for n in range(1, 13)]} for arm in ARMS},
    "primary": {
        "flat": {
            "measure": "target",
            "claim": "equivalent",
            "arms": ["gmt"],
            "against": "each_other",
            "tasks": "apart",
        },
        "forgets_less": {
            "measure": "forgetting",
            "claim": "better",
            "arms": list(ARMS),
            "against": "sft",
            "tasks": "apart",
        },
    },
}


def finish(run: PlannedRun) -> None:
    """Write the record of a run that is done, without waiting for the disk."""
    record, draw = run.record, random.Random(run.run.id)
    record.folder.mkdir(parents=True)
    right = {when: _right(draw, when == "before") for when in ("before", "after")}
    ratio = run.run.config["method"].get("mask_ratio")
    files = {
        "config.json": [{"run_id": record.id, "science": run.run.science, "config": run.run.config}],
        "environment.json": [_environment()],
        "result.json": [_result(right, 1 - (ratio or 0))],
        "metrics.jsonl": _metrics(draw, is_masked=ratio is not None),
        **{f"answers_{when}.jsonl": _answers(own) for when, own in right.items()},
    }
    for name, rows in files.items():
        (record.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    now = time.time()
    status = {"state": "done", "attempts": 1, "started_at": now, "ended_at": now + 5, "host": "a machine", "pid": 1}
    digests = digests_at_the_end(record.folder)
    (record.folder / "status.json").write_text(json.dumps({**status, "digests": digests}), encoding="utf-8")


def _right(draw: random.Random, is_base: bool) -> Mapping[str, Mapping[str, list[bool]]]:
    """Return whether each question is answered rightly, by part and suite."""
    share = {"target": 0.1 if is_base else 0.5, "source": 0.95 if is_base else 0.6}
    return {
        part: {suite: [draw.random() < share[part] for _ in range(number)] for suite, number in suites.items()}
        for part, suites in SUITES.items()
    }


def _result(right: Mapping[str, Mapping[str, Mapping[str, list[bool]]]], density: float) -> dict[str, Any]:
    scores, metrics = {}, {}
    for when, parts in right.items():
        of_part = {part: {name: sum(own) / len(own) for name, own in suites.items()} for part, suites in parts.items()}
        scores[when] = {part: {**own, "mean": sum(own.values()) / len(own)} for part, own in of_part.items()}
        metrics[when] = {
            f"eval/{part}{'_mean' if name == 'mean' else f'/{name}_exact_match'}": value
            for part, own in scores[when].items()
            for name, value in own.items()
        }
    forgetting = scores["before"]["source"]["mean"] - scores["after"]["source"]["mean"]
    result = replace(
        finished_result(0.0),
        **scores,
        metrics=metrics,
        forgetting=forgetting,
        target_density=density,
        num_parameters=836_736,
    )
    return result.to_json()


def _answers(right: Mapping[str, Mapping[str, list[bool]]]) -> Iterator[dict[str, Any]]:
    for part, suites in right.items():
        for suite, own in suites.items():
            for number, is_right in enumerate(own):
                prompt = f"What is question {number} of {suite}?\n"
                yield {"part": part, "suite": suite, "prompt": prompt, "answer": "18", "score": float(is_right)}


def _metrics(draw: random.Random, *, is_masked: bool) -> Iterator[dict[str, Any]]:
    for step in range(10, 60, 10):
        row = {"step": step, "time": 0.0, "train/loss": 5 / step + draw.random() / 10, "train/grad_norm": 7.0}
        row |= {f"time/{part}_s": draw.random() / 100 for part in ("forward_backward", "mask", "optimizer")}
        places = ["mask", *(f"mask/layers/{layer}" for layer in LAYERS)] if is_masked else []
        facts = ("energy_kept", "overlap", "moved_fraction", "kept_fraction")
        yield row | {f"{place}/{fact}": draw.random() for place in places for fact in facts}


def _environment() -> dict[str, Any]:
    versions = dict.fromkeys(("gmt-lab", "torch", "transformers"), "1")
    machine = {"device": "cpu", "gpus": [], "torch_threads": 1, "cpu": "a core"}
    return {**machine, "versions": versions, "code": versions, "commit": "0" * 40, "dirty": False}


def measured(arguments: Sequence[str], folder: Path, rounds: int) -> tuple[int, float]:
    """Return the number of runs and the median seconds of a report."""
    root = [f"record.root={folder / arguments[0].removeprefix('study=')}", "tracking=none"]  # studies share no run
    config_dir = str(folder) if "--config-dir" in arguments else None
    plan, _ = planned([arguments[0], *root], config_dir)
    for run in plan.runs:
        finish(run)
    return len(plan.runs), command_s(["report", *arguments, *root], folder, rounds)


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="reporting-") as name:
        folder = Path(name)
        (folder / "study").mkdir()
        (folder / "study" / "wide.yaml").write_text(json.dumps(WIDE), encoding="utf-8")
        studies = {
            "the quickstart": ["study=quickstart"],
            "50 choices on 2 tasks, 10 seeds, 2 questions": ["study=wide", "--config-dir", str(folder)],
        }
        for words, arguments in studies.items():
            number, seconds = measured(arguments, folder, args.rounds)
            rows.append([words, f"{number:,}", f"{seconds:.1f}", f"{LIMITS_S[number]:g}"])
    publish("How long `gmt report` takes", [table(["study", "runs", "s", "limit, s"], rows)], args.out)


if __name__ == "__main__":
    main()

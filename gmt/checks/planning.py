"""Laws that are tried before a run starts, on config, class and run id. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gmt.checks.verdict import Verdict
from gmt.composition import with_values
from gmt.errors import UserError
from gmt.plug_ins import class_of
from gmt.runs.build import Run, build
from gmt.runs.diagnose import Diagnosing
from gmt.settings import NEUTRAL
from gmt.training.settings import TrainSettings

DIAGNOSTIC = "diagnostic"
BUILDS = "it composes and builds"
LIGHT = "planning imports no torch"
SAME_ID = "its run id is the same in every process"
NEUTRAL_IDS = "a setting at its neutral value leaves the run id as it was"
IN_YAML = "every setting that the run id must cover is in its yaml"
# A program that prints the run id, and the slow libraries that planning has imported.
_PLAN_PROGRAM = """
import json, sys
config, sys.path[:] = json.load(sys.stdin)
from gmt.runs.build import build
if diagnostic := config.pop("diagnostic", None):
    from gmt.runs.diagnose import Diagnosing
    Diagnosing(diagnostic)
print(json.dumps({"id": build(config).id, "heavy": [n for n in ("torch", "transformers", "ray") if n in sys.modules]}))
"""


def laws_of_planning(config: Mapping[str, Any], groups: Sequence[str]) -> Iterator[Verdict]:
    """Yield a verdict on each law; only the first, if the config does not build.

    Args:
        config: the user's resolved config.
        groups: the config keys of the checked plug-ins.
    """
    verdicts = laws_of_settings(config, groups)
    yield (builds := next(verdicts))
    if builds.state != "broken":
        yield from _in_another_process(config, build(without_diagnostic(config)))
        yield from verdicts


def laws_of_settings(config: Mapping[str, Any], groups: Sequence[str]) -> Iterator[Verdict]:
    """Yield a verdict on each law that needs no other process; only the first, if the config does not build."""
    try:
        run = build(without_diagnostic(config))
        if DIAGNOSTIC in groups:
            Diagnosing(config[DIAGNOSTIC])
    except UserError as error:
        yield Verdict(law=BUILDS, state="broken", detail="; ".join(error.sentences))
        return
    classes = {group: _class_of(group, config[group]) for group in groups}
    paths = ", ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in classes.values())
    yield Verdict(law=BUILDS, state="holds", detail=f"{paths}, run {run.id}")
    yield _neutral(without_diagnostic(config), {group: kind for group, kind in classes.items() if group != DIAGNOSTIC})
    yield _in_yaml(config, classes)


def without_diagnostic(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without its diagnostic, since a run's config has none."""
    return {key: value for key, value in config.items() if key != DIAGNOSTIC}


def _class_of(group: str, values: Mapping[str, Any]) -> type:
    return TrainSettings if group == "train" else class_of(group, values["_target_"])


def _in_another_process(config: Mapping[str, Any], run: Run) -> Iterator[Verdict]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PLAN_PROGRAM],
        input=json.dumps([config, sys.path]),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        yield Verdict(
            law=SAME_ID, state="broken", detail=f"another process can't build it: {lines[-1] if lines else 'it died'}"
        )
        return
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["heavy"]:
        yield Verdict(
            law=LIGHT,
            state="broken",
            detail=f"{', '.join(answer['heavy'])} is imported when a run is planned, which takes seconds: import it in "
            "the method that needs it, and for types below `if TYPE_CHECKING:`",
        )
    else:
        yield Verdict(law=LIGHT, state="holds")
    if answer["id"] == run.id:
        yield Verdict(law=SAME_ID, state="holds", detail=run.id)
        return
    yield Verdict(
        law=SAME_ID,
        state="broken",
        detail=f"it is {run.id} here and {answer['id']} in another process: fingerprint() must depend on the settings "
        "and the content of files alone, not on time, memory addresses or the order of a set",
    )


def _neutral(config: Mapping[str, Any], classes: Mapping[str, type]) -> Verdict:
    names = []
    for group, kind in classes.items():
        values = {field.name: field.metadata[NEUTRAL] for field in _fields(kind) if NEUTRAL in field.metadata}
        for name, value in values.items():
            names.append(f"{group}.{name}")
            # a setting may be valid only where the others are neutral too, so both are tried
            faults = [_fault_of_neutral(config, group, neutral) for neutral in ({name: value}, values)]
            if None not in faults:
                return Verdict(
                    law=NEUTRAL_IDS,
                    state="broken",
                    detail=f"{names[-1]} at its neutral value {value!r} must be accepted, and give the id of the "
                    f"config without this setting{faults[0]}",
                )
    return Verdict(law=NEUTRAL_IDS, state="holds", detail=", ".join(names) or "it has no such setting")


def _fault_of_neutral(config: Mapping[str, Any], group: str, neutral: Mapping[str, Any]) -> str | None:
    """Return None if these neutral values do not change the id; else a clause on the error, or "" without an error."""
    without = {key: value for key, value in config[group].items() if key not in neutral}
    try:
        ids = {build({**config, group: values}).id for values in (without, {**without, **neutral})}
    except UserError as error:
        return f"; {'; '.join(error.sentences)}"
    return None if len(ids) == 1 else ""


def _in_yaml(config: Mapping[str, Any], classes: Mapping[str, type]) -> Verdict:
    hidden = [
        f"{group}.{field.name}"
        for group, kind in classes.items()
        for field in _fields(kind)
        if NEUTRAL not in field.metadata and field.name not in config[group]
    ]
    if not hidden:
        return Verdict(law=IN_YAML, state="holds")
    return Verdict(
        law=IN_YAML,
        state="broken",
        detail=f"{', '.join(hidden)} has a default in Python and is in no yaml, so a change of the default would give "
        "other results under the same run id: write the value into the yaml, or declare the setting by "
        "settings.neutral(VALUE)",
    )


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.init]


def shortened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config shortened to seconds on the CPU: two epochs of three steps, four questions of each suite.

    A selection gets four times as many examples, so that it may leave most of them out. A method that reads examples
    before it trains reads at most those of one epoch.
    """
    train = config["train"]
    micro_batch_size = min(2, train["micro_batch_size"])
    num_rows = 3 * 2 * micro_batch_size
    values = {
        "train.num_epochs": 2,  # some methods draw anew in each
        "train.micro_batch_size": micro_batch_size,
        "train.accumulation_steps": 2,
        "record.log_every": 1,
        "record.checkpoint_every": 2,
        "record.evaluate_every": 0,
        "record.keep_weights": True,
        "resources.device": "cpu",
        "resources.gpus": 0,
        "resources.cpus": 1,
        "resources.sharding": "none",
    }
    if (config["method"].get("num_examples") or 0) > num_rows:
        values["method.num_examples"] = num_rows
    short = with_values(config, values)
    num_examples = num_rows * (1 if config.get("selection") is None else 4)
    if train["packing"]:
        num_examples *= 8  # packed examples share a row
    short["task"] = {
        "_target_": "gmt.checks.short_task.ShortTask",
        "task": config["task"],
        "num_examples": num_examples,
        "num_questions": 4,
        "as_preferences": False,
    }
    return {key: value for key, value in short.items() if key not in ("study", "search", "sweep", DIAGNOSTIC)}

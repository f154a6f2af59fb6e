"""`gmt submit`: plans a study, submits its sweep to a cluster, and does not wait for it."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gmt import settings
from gmt.cluster import SweepJob
from gmt.commands.clusters import cluster_of, split_overrides
from gmt.composition import Composer, hydra_on
from gmt.credentials import refuse_secrets
from gmt.runs.foreign_code import foreign_code
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.terminal import say

_REMEDY = "docs/clusters.md says how secrets reach a cluster"
_STUDY_LETTERS = 20  # KubeRay allows a RayJob's name 47 letters, which also hold the plan's identity and the attempt


def submit(overrides: Sequence[str], config_dir: str | None, *, dry_run: bool) -> None:
    """Submit a sweep, or print the job that would be submitted.

    Args:
        overrides: the user's overrides: those of `cluster` choose the cluster, the others the sweep.
        config_dir: a config folder of the user's own, or None.
        dry_run: whether to print the job instead of submitting it.

    Raises:
        UserError: the study or the cluster is wrong, or an override or a yaml holds a secret; nothing was started.
    """
    cluster_overrides, sweep_overrides = split_overrides(overrides)
    for text in overrides:
        refuse_secrets("an override", text, _REMEDY)
    for file in sorted(Path(config_dir).rglob("*.yaml")) if config_dir else []:  # they are submitted too
        refuse_secrets(str(file), file.read_text(encoding="utf-8", errors="replace"), _REMEDY, is_data=True)
    cluster = cluster_of(cluster_overrides, config_dir)
    root = _record_root(sweep_overrides, config_dir)
    plan = _plan_with_records_here(sweep_overrides, config_dir, root)
    job = SweepJob(
        name=_name(plan),
        overrides=sweep_overrides,
        config_dir=None if config_dir is None else Path(config_dir).resolve(),
        record_root=root,
        gpus_needed=max(planned.run.resources.num_gpus(0) for planned in (*plan.runs, *plan.later)),
        gpus_used=max(planned.run.resources.num_gpus(1) for planned in (*plan.runs, *plan.later)),
    )
    counts = _counts_in_words(plan)
    configs = (planned.run.config for planned in (*plan.runs, *plan.later))
    warnings = [f"warning: {sentence}" for sentence in foreign_code(configs)]
    if dry_run:
        preview = cluster.preview(job).rstrip()
        say("".join(f"# {line}\n" for line in warnings) + f"# {counts}; this would be submitted:")
        say(preview)
        return
    say("\n".join([*warnings, counts]))
    if set(plan.states().values()) == {"done"}:
        say("nothing to do")
        return
    job_id = cluster.submit(job)
    words = " ".join(cluster_overrides)
    say(f"submitted as {job_id}")
    say(f"follow it with  gmt logs {job_id} {words} --follow")
    say(f"end it with     gmt stop {job_id} {words}")


def _record_root(overrides: Sequence[str], config_dir: str | None) -> str:
    with hydra_on(config_dir):
        composer = Composer()
        chosen = [text for text in overrides if text.startswith("record.root=")]
        return str(composer.compose_plain(chosen)["record"]["root"])


def _plan_with_records_here(overrides: Sequence[str], config_dir: str | None, root: str) -> Plan:
    """Return the plan; without records if `root` does not exist here, since it may exist on the cluster only."""
    if settings.path("record.root", root).is_dir():
        return planned(overrides, config_dir)[0]
    others = [text for text in overrides if not text.startswith("record.root=")]
    with tempfile.TemporaryDirectory() as empty:
        return planned([*others, f"record.root={empty}"], config_dir)[0]


def _name(plan: Plan) -> str:
    study = re.sub(r"[^a-z0-9]+", "-", plan.study.name.lower())[:_STUDY_LETTERS].strip("-")
    return f"gmt-{study}-{plan.identity[:12]}"


def _counts_in_words(plan: Plan) -> str:
    states = list(plan.states().values())
    return f"study {plan.study.name}: {len(states)} runs, {states.count('done')} of them done by the records here"

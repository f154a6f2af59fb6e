"""`gmt submit`: plans a study, hands its sweep to a cluster, and returns."""

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
_STUDY_LETTERS = 20  # Kubernetes takes 47 for a RayJob's name; the identity and the attempt need some


def submit(overrides: Sequence[str], config_dir: str | None, *, dry_run: bool) -> None:
    """Submits a sweep, or shows what would be submitted.

    Raises:
        UserError: something is wrong with the study or the cluster; nothing was started.
    """
    of_cluster, of_sweep = split_overrides(overrides)
    for text in overrides:
        refuse_secrets("an override", text, _REMEDY)
    for file in sorted(Path(config_dir).rglob("*.yaml")) if config_dir else []:  # they travel too
        refuse_secrets(str(file), file.read_text(encoding="utf-8", errors="replace"), _REMEDY, is_data=True)
    cluster = cluster_of(of_cluster, config_dir)
    root = _record_root(of_sweep, config_dir)
    plan = _planned_where_records_are(of_sweep, config_dir, root)
    job = SweepJob(
        name=_name(plan),
        overrides=of_sweep,
        config_dir=None if config_dir is None else Path(config_dir).resolve(),
        record_root=root,
        gpus_needed=max(planned.run.resources.num_gpus(0) for planned in (*plan.runs, *plan.later)),
        gpus_used=max(planned.run.resources.num_gpus(1) for planned in (*plan.runs, *plan.later)),
    )
    counted = _counted(plan)
    configs = (planned.run.config for planned in (*plan.runs, *plan.later))
    warnings = [f"warning: {sentence}" for sentence in foreign_code(configs)]
    if dry_run:
        say("".join(f"# {line}\n" for line in warnings) + f"# {counted}; this would be submitted:")
        say(cluster.preview(job).rstrip())
        return
    say("\n".join([*warnings, counted]))
    if set(plan.states().values()) == {"done"}:
        say("nothing to do")
        return
    job_id = cluster.submit(job)
    where = " ".join(of_cluster)
    say(f"submitted as {job_id}")
    say(f"follow it with  gmt logs {job_id} {where} --follow")
    say(f"end it with     gmt stop {job_id} {where}")


def _record_root(overrides: Sequence[str], config_dir: str | None) -> str:
    with hydra_on(config_dir):
        composer = Composer()
        chosen = [text for text in overrides if text.startswith("record.root=")]
        return str(composer.compose_plain(chosen)["record"]["root"])


def _planned_where_records_are(overrides: Sequence[str], config_dir: str | None, root: str) -> Plan:
    """The plan; the records' folder may exist on the cluster alone, and is then taken for empty."""
    if settings.path("record.root", root).is_dir():
        return planned(overrides, config_dir)[0]
    elsewhere = [text for text in overrides if not text.startswith("record.root=")]
    with tempfile.TemporaryDirectory() as empty:
        return planned([*elsewhere, f"record.root={empty}"], config_dir)[0]


def _name(plan: Plan) -> str:
    study = re.sub(r"[^a-z0-9]+", "-", plan.study.name.lower())[:_STUDY_LETTERS].strip("-")
    return f"gmt-{study}-{plan.identity[:12]}"


def _counted(plan: Plan) -> str:
    states = list(plan.states().values())
    return f"study {plan.study.name}: {len(states)} runs, {states.count('done')} of them done by the records here"

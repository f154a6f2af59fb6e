"""Composes the config group `cluster` by itself, since the config of a run does not say where its sweep runs."""

from collections.abc import Mapping, Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra

from gmt.cluster import Cluster
from gmt.composition import hydra_on, to_plain, user_errors
from gmt.credentials import refuse_secrets
from gmt.errors import UserError, choices
from gmt.runs.build import plug_in

_GROUP = "cluster"


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of the cluster, and all other overrides."""
    cluster = [text for text in overrides if text.lstrip("+~").startswith((f"{_GROUP}=", f"{_GROUP}."))]
    return cluster, [text for text in overrides if text not in cluster]


def cluster_of(overrides: Sequence[str], config_dir: str | None) -> Cluster:
    """Return the cluster that `cluster=NAME cluster.KEY=VALUE ...` names.

    Args:
        overrides: the overrides of the cluster's settings.
        config_dir: the user's own config folder, or None.

    Raises:
        UserError: not exactly one cluster is named, it does not exist, or one of its settings is wrong.
    """
    with hydra_on(config_dir):
        names = GlobalHydra.instance().config_loader().get_group_options(_GROUP)
        wanted = [text.partition("=")[2] for text in overrides if text.startswith(f"{_GROUP}=")]
        if len(wanted) != 1:
            got = f" once, got it {len(wanted)} times" if wanted else ""
            raise UserError(f"this command needs cluster=NAME{got}; {choices('', names)}")
        if wanted[0] not in names:
            raise UserError(f"there is no cluster {wanted[0]!r}; {choices(wanted[0], names)}")
        others = [text for text in overrides if not text.startswith(f"{_GROUP}=")]
        with user_errors():
            config = compose(f"{_GROUP}/{wanted[0]}", overrides=others)
        values = to_plain(config)[_GROUP]
        cluster: Cluster = plug_in(_GROUP, values)
        _refuse_secrets(_GROUP, values)
    return cluster


def _refuse_secrets(setting: str, value: object) -> None:
    """Raise UserError if a setting holds a secret, since scripts, manifests and dashboards show the settings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_secrets(f"{setting}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            _refuse_secrets(setting, item)
    elif isinstance(value, str):
        refuse_secrets(setting, value, "docs/clusters.md says how secrets reach a cluster")

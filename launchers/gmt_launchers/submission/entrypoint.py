"""The command that every cluster runs: `gmt sweep`, with its launcher joined to the cluster's Ray."""

import shlex

from gmt.cluster import SweepJob


def sweep_command(job: SweepJob, *, python: str, config_dir: str | None, address: str = "auto") -> str:
    """Return the shell command of a job.

    Args:
        job: the sweep.
        python: the interpreter's path or name on the cluster.
        config_dir: the path of the user's config folder on the cluster, or None.
        address: the address of the cluster's Ray as a word of the shell; `auto` finds the Ray that the job runs in.
    """
    words = [python, "-m", "gmt", "sweep", *job.overrides]
    if config_dir is not None:
        words += ["--config-dir", config_dir]
    command = shlex.join(words)
    joins = all(not text.startswith(("hydra/launcher=", "hydra.launcher.address=")) for text in job.overrides)
    return f"{command} hydra.launcher.address={address}" if joins else command

"""The one command that every cluster runs: `gmt sweep`, with its launcher joined to the cluster's Ray."""

import shlex

from gmt.cluster import SweepJob


def sweep_command(job: SweepJob, *, python: str, config_dir: str | None, address: str = "auto") -> str:
    """The shell command of a job.

    Args:
        job: what is to be run.
        python: the interpreter, as the cluster's shell finds it.
        config_dir: where the user's config folder lies there, or None.
        address: the cluster's Ray as a word of the shell; `auto` finds the one that the job runs in.
    """
    words = [python, "-m", "gmt", "sweep", *job.overrides]
    if config_dir is not None:
        words += ["--config-dir", config_dir]
    command = shlex.join(words)
    joins = all(not text.startswith(("hydra/launcher=", "hydra.launcher.address=")) for text in job.overrides)
    return f"{command} hydra.launcher.address={address}" if joins else command

"""The commands that hand sweeps to clusters, and look after what was handed over."""

from __future__ import annotations

from argparse import Namespace

from gmt.commands.parsers.parser import Parser, Section, take_config


def add_commands(section: Section) -> None:
    """Add the commands."""
    submit = section.add(
        "submit",
        _submit,
        takes="study=NAME cluster=NAME",
        summary="hands the sweep to a cluster (ray, slurm, kuberay)",
        about="Plans the study, hands `gmt sweep study=NAME ...` to a cluster, and returns. cluster=ray: a running Ray "
        "cluster; slurm: sbatch; kuberay: a RayJob. The settings of each are in conf/cluster. Submit again what was "
        "preempted or stopped: it goes on where it was. docs/clusters.md says what must be shared.",
    )
    take_config(submit)
    submit.add_argument("--dry-run", action="store_true", help="show what would be submitted; start nothing")
    jobs = section.add(
        "jobs",
        _jobs,
        takes="cluster=NAME",
        summary="what was submitted and what became of it",
        about="The jobs that were submitted to cluster=NAME.",
    )
    take_config(jobs)
    logs = section.add(
        "logs",
        _logs,
        takes="JOB cluster=NAME",
        summary="what a job writes",
        about="What a job writes. JOB is what `gmt submit` and `gmt jobs` print.",
    )
    _take_job(logs)
    logs.add_argument("--follow", action="store_true", help="go on until the job ends")
    stop = section.add(
        "stop",
        _stop,
        takes="JOB cluster=NAME",
        summary="ends a job; submitted again, it goes on",
        about="Ends a job. What its runs have recorded stays.",
    )
    _take_job(stop)


def _take_job(parser: Parser) -> None:
    parser.add_argument("job", metavar="JOB", help="what `gmt submit` and `gmt jobs` print")
    take_config(parser)


def _submit(options: Namespace) -> None:
    from gmt.commands.submit import submit

    submit(options.overrides, options.config_dir, dry_run=options.dry_run)


def _jobs(options: Namespace) -> None:
    from gmt.commands.jobs import jobs

    jobs(options.overrides, options.config_dir)


def _logs(options: Namespace) -> None:
    from gmt.commands.jobs import logs

    logs(options.job, options.overrides, options.config_dir, follow=options.follow)


def _stop(options: Namespace) -> None:
    from gmt.commands.jobs import stop

    stop(options.job, options.overrides, options.config_dir)

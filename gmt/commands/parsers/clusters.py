"""Declares the commands that submit sweeps to clusters, and list, show and end the submitted jobs."""

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
        about="Plans the study, submits `gmt sweep study=NAME ...` to a cluster, and returns. cluster=ray: a running "
        "Ray cluster; slurm: sbatch; kuberay: a RayJob. `gmt help cluster=NAME` shows the settings of each. To resume "
        "a preempted or stopped sweep, submit it again. docs/clusters.md says what the machines must share.",
    )
    take_config(submit, "study=quickstart cluster=slurm")
    submit.add_argument("--dry-run", action="store_true", help="show what would be submitted; start nothing")
    jobs = section.add(
        "jobs",
        _jobs,
        takes="cluster=NAME",
        summary="the submitted jobs and their states",
        about="Lists the jobs that were submitted to cluster=NAME, and their states.",
    )
    take_config(jobs, "cluster=slurm")
    logs = section.add(
        "logs",
        _logs,
        takes="JOB cluster=NAME",
        summary="the output of a job",
        about="Prints the output of a job.",
    )
    _take_job(logs)
    logs.add_argument("--follow", action="store_true", help="print further output until the job ends")
    stop = section.add(
        "stop",
        _stop,
        takes="JOB cluster=NAME",
        summary="ends a job; to resume its sweep, submit it again",
        about="Ends a job. The records of its runs are not removed.",
    )
    _take_job(stop)


def _take_job(parser: Parser) -> None:
    parser.add_argument("job", metavar="JOB", help="the id that `gmt submit` prints, and `gmt jobs` in the column job")
    take_config(parser, "cluster=slurm")


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

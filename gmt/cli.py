"""The program `gmt`. Finds the command, speaks to the terminal, and turns errors into exit codes.

0: all is done. 1: a run failed, or the machine did. 2: what was asked is wrong, and nothing was started.
130: stopped by Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from gmt.command_options import (
    ANSWERS,
    BRIEF,
    BROWSER,
    DELTA,
    DIRTY,
    DRY_RUN,
    FOLLOW,
    FORCE,
    JOB,
    MERGED,
    OPERATIONS,
    OTHER,
    PEFT,
    PORT,
    RUN,
    RUNS,
    Parser,
    parse,
)
from gmt.commands.overview import OVERVIEW
from gmt.credentials import refuse_secrets, without_secrets
from gmt.errors import MachineFault, NoAnswer, RunFailed, UserError, choices
from gmt.machine_faults import machine_fault
from gmt.runs.hermetic import in_words, take_out
from gmt.terminal import printable


def main() -> NoReturn:
    """Entry point of `gmt` and `python -m gmt`."""
    is_tried = os.environ.get("PYTHONUTF8") == "1"
    if sys.getfilesystemencoding() != "utf-8" and not is_tried:  # paths and output break at the first umlaut
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    sys.excepthook = _show_traceback
    sys.exit(run_command(sys.argv[1:]))


def _show_traceback(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    sys.stderr.write(printable(without_secrets("".join(traceback.format_exception(kind, error, frames)))))


def run_command(arguments: Sequence[str]) -> int:
    """Carries out one command line.

    Args:
        arguments: what follows `gmt`.

    Returns:
        The exit code.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if arguments[0] == "--version":
        print(metadata.version("gmt-lab"))
        return 0
    return _guarded(arguments[0], arguments[1:])


def _guarded(command: str, rest: Sequence[str]) -> int:
    try:
        if command not in _COMMANDS:
            raise UserError(f"gmt has no command {command!r}; {choices(command, _COMMANDS)}")
        _require_home()
        _refuse_literal_secrets(rest)
        _COMMANDS[command](rest)
    except (RunFailed, MachineFault) as error:
        _say("failed", str(error))
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left, e.g. `| head`
        return 141
    except UserError as error:
        is_fault = machine_fault(error) is not None and not isinstance(error, NoAnswer)
        for sentence in error.sentences:
            _say("failed" if is_fault else "error", sentence)
        return 1 if is_fault else 2
    except OSError as error:  # a disk that is full, a folder without the right to write
        goes_on = "" if machine_fault(error) is None else "; the same command goes on where this stopped"
        _say("failed", f"{type(error).__name__}: {error}{goes_on}")
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this stopped", file=sys.stderr)
        return 130
    return 0


def _require_home() -> None:
    """Refuse a user without a home folder, whom Ray, MLflow and the hub's library answer with tracebacks."""
    try:
        Path.home()
    except RuntimeError as error:
        raise UserError(
            f"HOME must name a folder, and is not set: user {os.getuid()} has no entry in the list of users"
        ) from error


def _refuse_literal_secrets(arguments: Sequence[str]) -> None:
    """Refuse an override with a token: everybody on the machine sees a command line, and a config is written down.

    An address of the store may hold a password on this machine: it is masked wherever it is shown.
    """
    for text in arguments:
        if "=" in text and not text.lstrip("+").startswith("tracking."):
            remedy = "the hub's token belongs into HF_TOKEN, and docs/clusters.md says how others reach a cluster"
            refuse_secrets("an override", text, remedy, is_data=True)


def _say(word: str, sentence: str) -> None:
    print(printable(f"{word}: {without_secrets(sentence)}"), file=sys.stderr)


def _run(rest: Sequence[str]) -> None:
    _hydra_app("gmt run", rest)


def _sweep(rest: Sequence[str]) -> None:
    _hydra_app("gmt sweep", rest)


def _take_out_variables() -> None:
    """Take out of the environment what changes results, before torch and its kin read it, and say so."""
    if ignored := take_out():
        print(printable(in_words(ignored)), file=sys.stderr)


def _hydra_app(name: str, rest: Sequence[str]) -> None:
    _take_out_variables()
    from gmt.commands.hydra_app import hydra_app

    hydra_app(name, rest)


def _plan(rest: Sequence[str]) -> None:
    from gmt.commands.plan import plan

    about = "The runs of a study, what became of them, and what the rest will cost. Starts nothing."
    options = parse("plan", about, rest, RUNS)
    plan(options.overrides, options.config_dir, every_run=options.runs)


def _report(rest: Sequence[str]) -> None:
    from gmt.commands.report import report

    options = parse(
        "report",
        "Figures and tables of a study, from its run records.",
        rest,
        DIRTY,
        OPERATIONS,
    )
    report(options.overrides, options.config_dir, dirty=options.dirty, operations=options.operations)


def _diagnose(rest: Sequence[str]) -> None:
    _take_out_variables()
    from gmt.commands.diagnose import diagnose_study, names_with_words

    about = (
        "Measures the finished runs of a study, and their base. Each result is kept in its run's record and not "
        "measured again; after Ctrl-C or a kill the same command goes on. `gmt report` shows what was measured."
    )
    diagnostics = "".join(f"  {name:<20} {about}\n" for name, about in names_with_words().items())
    more = (
        f"diagnostics:\n{diagnostics}\ndiagnostic.KEY=VALUE changes a setting (conf/diagnostic/NAME.yaml lists them); "
        "commas list several:\n"
        "  gmt diagnose study=quickstart diagnostic=drift,mask_overlap\n"
        "  gmt diagnose study=quickstart diagnostic=sharpness diagnostic.rho=0.001,0.002\n"
        "The weights must have been kept (record.keep_weights=true); operations needs none.\n"
    )
    options = parse("diagnose", about, rest, more=more)
    diagnose_study(options.overrides, options.config_dir)


def _show(rest: Sequence[str]) -> None:
    from gmt.commands.show import show

    about = (
        "One run record: what came out, then its settings. RUN is a run id or its first digits. With study=NAME in its "
        "place: the means of the study's arms, best target first, and the answer to its question."
    )
    options = parse("show", about, rest, RUN, BRIEF, DIRTY)
    words = [options.run, *options.overrides]
    if any(word.startswith("study=") for word in words):
        from gmt.commands.means import show_study

        show_study(words, options.config_dir, dirty=options.dirty)
        return
    show(options.run, options.overrides, options.config_dir, brief=options.brief)


def _compare(rest: Sequence[str]) -> None:
    from gmt.commands.compare import EXAMPLES, compare

    about = "What two finished runs differ in: their settings, their scores, and the answers that flipped."
    options = parse("compare", about, rest, RUN, OTHER, ANSWERS, more=EXAMPLES)
    compare([options.run, options.other], options.overrides, options.config_dir, num_answers=options.answers)


def _export(rest: Sequence[str]) -> None:
    _take_out_variables()
    from gmt.commands.export import KINDS, export

    about = (
        "Writes a finished run for other programs, whole or not at all. RUN is a run id or its first digits. The run "
        "must have kept its weights (record.keep_weights=true). docs/exporting.md says how each is loaded."
    )
    options = parse(
        "export",
        about,
        rest,
        RUN,
        DELTA,
        PEFT,
        MERGED,
        FORCE,
    )
    paths = {kind: getattr(options, kind) for kind in KINDS}
    export(options.run, options.overrides, options.config_dir, paths=paths, force=options.force)


def _ui(rest: Sequence[str]) -> None:
    from gmt.commands.ui import serve

    about = (
        "The MLflow dashboard on the project's store. It prints a link that logs your browser in; nobody else on this "
        "machine can open it. With study=NAME the link leads to that study. "
        "docs/dashboard.md says how to serve it to others."
    )
    options = parse("ui", about, rest, PORT, BROWSER)
    serve(options.overrides, options.config_dir, options.port, browser=options.browser)


def _sync(rest: Sequence[str]) -> None:
    from gmt.commands.sync import sync

    about = (
        "Brings MLflow level with the run records: after its server was away, or to make a lost store again. Each "
        "value is written once, however often this is called. Besides study=NAME it takes the ids of single runs."
    )
    options = parse("sync", about, rest)
    sync(options.overrides, options.config_dir)


def _check(rest: Sequence[str]) -> None:
    _take_out_variables()
    from gmt.commands.check import ABOUT, print_checks

    options = parse("check", ABOUT, rest)
    print_checks(options.overrides, options.config_dir)


def _new(rest: Sequence[str]) -> None:
    from gmt.commands.new import new
    from gmt.starts.start import KINDS

    about = (
        "Writes the few lines to start from (a class where one is needed, its yaml, its test) into the current folder "
        "or that of --config-dir, and says what comes next. The files pass `gmt check` as they are; no file is "
        "overwritten. At the root of a checkout of this repository they go beside the repository's own. "
        f"KIND is one of {', '.join(KINDS)}."
    )
    parser = Parser(prog="gmt new", description=about)
    parser.add_argument("kind", metavar="KIND")
    parser.add_argument(
        "name", metavar="NAME", help="its name, in configs and as a module: small letters, digits and _"
    )
    parser.add_argument("--config-dir", "-cd", default=None, help="a config folder of your own")
    options = parser.parse_args(list(rest))
    new(options.kind, options.name, options.config_dir)


def _submit(rest: Sequence[str]) -> None:
    from gmt.commands.submit import submit

    about = (
        "Plans the study, hands `gmt sweep study=NAME ...` to a cluster, and returns. cluster=ray: a running Ray "
        "cluster; slurm: sbatch; kuberay: a RayJob. The settings of each are in conf/cluster. Submit again what was "
        "preempted or stopped: it goes on where it was. docs/clusters.md says what must be shared."
    )
    options = parse("submit", about, rest, DRY_RUN)
    submit(options.overrides, options.config_dir, dry_run=options.dry_run)


def _jobs(rest: Sequence[str]) -> None:
    from gmt.commands.jobs import jobs

    options = parse("jobs", "The jobs that were submitted to cluster=NAME.", rest)
    jobs(options.overrides, options.config_dir)


def _logs(rest: Sequence[str]) -> None:
    from gmt.commands.jobs import logs

    options = parse(
        "logs",
        "What a job writes. JOB is what `gmt submit` and `gmt jobs` print.",
        rest,
        JOB,
        FOLLOW,
    )
    logs(options.job, options.overrides, options.config_dir, follow=options.follow)


def _stop(rest: Sequence[str]) -> None:
    from gmt.commands.jobs import stop

    options = parse("stop", "Ends a job. What its runs have recorded stays.", rest, JOB)
    stop(options.job, options.overrides, options.config_dir)


_COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {
    "run": _run,
    "sweep": _sweep,
    "plan": _plan,
    "report": _report,
    "diagnose": _diagnose,
    "show": _show,
    "compare": _compare,
    "export": _export,
    "check": _check,
    "new": _new,
    "ui": _ui,
    "sync": _sync,
    "submit": _submit,
    "jobs": _jobs,
    "logs": _logs,
    "stop": _stop,
}

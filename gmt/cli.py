"""The program `gmt`: runs a command, prints its errors, and turns them into exit codes.

0: the command is done. 1: a run failed, or the machine did. 2: the command line, a config or a file is wrong, and
nothing was started. 130: stopped by Ctrl-C. 141: the program that reads the output has ended.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from gmt.commands.parsers import make_parser, parse, sub_parsers
from gmt.credentials import refuse_secrets, without_secrets
from gmt.errors import MachineFault, NoAnswer, RunFailed, UserError
from gmt.leaving import leave
from gmt.machine_faults import machine_fault
from gmt.terminal import printable


def main() -> NoReturn:
    """Entry point of `gmt` and `python -m gmt`."""
    is_restarted = os.environ.get("PYTHONUTF8") == "1"
    if sys.getfilesystemencoding() != "utf-8" and not is_restarted:  # paths and output break at the first umlaut
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    sys.excepthook = _show_traceback
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for candidates
        from gmt.commands.completion import complete

        complete(make_parser(), sub_parsers(make_parser()))
    leave(run_command(sys.argv[1:]))


def _show_traceback(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    sys.stderr.write(printable(without_secrets("".join(traceback.format_exception(kind, error, frames)))))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the arguments after `gmt`.

    Returns:
        The exit code.
    """
    try:
        _refuse_literal_secrets(arguments)
        options = parse(arguments)
        if options.own_version:
            from importlib import metadata

            print(metadata.version("gmt-lab"))
            return 0
        if options.command is None:
            make_parser().print_help()
            return 0
        _require_home()
        options.do(options)
    except (RunFailed, MachineFault) as error:
        _say("failed", str(error))
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # e.g. `| head` has read enough
        return 141
    except UserError as error:
        is_fault = machine_fault(error) is not None and not isinstance(error, NoAnswer)
        for sentence in error.sentences:
            _say("failed" if is_fault else "error", sentence)
        return 1 if is_fault else 2
    except OSError as error:  # a disk that is full, a folder without the right to write
        remedy = "" if machine_fault(error) is None else "; the same command resumes"
        _say("failed", f"{type(error).__name__}: {error}{remedy}")
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


def _require_home() -> None:
    """Refuse a user without a home folder: Ray, MLflow and the hub's library would fail with tracebacks."""
    try:
        Path.home()
    except RuntimeError as error:
        raise UserError(
            f"HOME must name a folder, and is not set: user {os.getuid()} has no entry in the list of users"
        ) from error


def _refuse_literal_secrets(arguments: Sequence[str]) -> None:
    """Refuse an override with a token: everybody on the machine can see a command line, and configs are stored.

    The address in tracking.uri may hold a password, since it is masked wherever it is stored or shown.
    """
    for text in arguments:
        if "=" in text and not text.lstrip("+").startswith("tracking."):
            remedy = "put the hub's token into HF_TOKEN; docs/clusters.md says how other secrets reach a cluster"
            refuse_secrets("an override", text, remedy, is_data=True)


def _say(word: str, sentence: str) -> None:
    print(printable(f"{word}: {without_secrets(sentence)}"), file=sys.stderr)

"""Runs command-line programs of clusters (sbatch, kubectl), and turns their errors into sentences."""

import subprocess
from collections.abc import Sequence

from gmt.errors import UserError

_TIMEOUT_S = 60.0


def output_of(command: Sequence[str], *, needs: str, text: str | None = None) -> str:
    """Return the output of a program.

    Args:
        command: the program and its arguments, which every user of the machine can read.
        needs: the system that the program belongs to, for error messages.
        text: the program's standard input.

    Raises:
        UserError: the program isn't installed, takes too long, or fails.
    """
    try:
        completed = subprocess.run(
            command, input=text, capture_output=True, text=True, encoding="utf-8", check=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} isn't on this machine: submit from where {needs} is installed") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} gave no answer in {_TIMEOUT_S:.0f} s: does {needs} run?") from error
    except subprocess.CalledProcessError as error:
        message = (error.stderr or error.stdout or "no message").strip().splitlines()[-1][:300]
        raise UserError(f"{command[0]} failed with code {error.returncode}: {message}") from error
    return completed.stdout

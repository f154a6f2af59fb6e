"""Removes variables that change results from the environment, before torch and other libraries read them."""

import sys

from gmt.runs.hermetic import in_words, take_out
from gmt.terminal import printable


def take_out_variables() -> None:
    """Remove the variables, and print their names to standard error."""
    if ignored := take_out():
        print(printable(in_words(ignored)), file=sys.stderr)

"""Removes variables that change results from the environment, before torch and other libraries read them."""

import sys

from gmt.runs.hermetic import in_words, remove_variables
from gmt.terminal import printable


def remove_and_name_variables() -> None:
    """Remove the variables, and print their names to standard error."""
    if ignored := remove_variables():
        print(printable(in_words(ignored)), file=sys.stderr)

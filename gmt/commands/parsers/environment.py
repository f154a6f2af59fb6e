"""Takes variables that change results out of the environment, before torch and its kin read them."""

import sys

from gmt.runs.hermetic import in_words, take_out
from gmt.terminal import printable


def take_out_variables() -> None:
    """Take the variables out, and say so."""
    if ignored := take_out():
        print(printable(in_words(ignored)), file=sys.stderr)

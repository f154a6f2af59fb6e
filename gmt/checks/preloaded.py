"""Imports the libraries of a run, which takes seconds, once: in the process from which a check forks its runs."""

import gmt.runs.workers  # noqa: F401  # imports all that a run needs

"""Imports the libraries of a run, which takes seconds, once: in the process that a check forks its processes from."""

import gmt.runs.workers  # noqa: F401  # imports all that a run needs

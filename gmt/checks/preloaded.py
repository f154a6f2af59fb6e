"""Imports the libraries of a run, which takes seconds, only once: in the process from which a check forks others."""

import gmt.runs.workers  # noqa: F401  # imports all that a run needs

"""What the processes of a check import once, in the process that they are forked from: seconds of libraries."""

import gmt.runs.workers  # noqa: F401  # and all of a run with it

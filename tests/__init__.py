"""The tests. Two run side by side and fill two cores, so each computes on one: threads that wait for a core spin."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

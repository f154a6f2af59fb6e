"""Tracking: the run records seen through MLflow and as a table. Views only; they can be made again at any time."""

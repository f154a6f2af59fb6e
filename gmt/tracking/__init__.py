"""Tracking: views of the run records, in MLflow and as tables. They can be rebuilt from the records at any time."""

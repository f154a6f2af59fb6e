"""Runs: the only place where config becomes objects, and where a run is done from its start to its record."""

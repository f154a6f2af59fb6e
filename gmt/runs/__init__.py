"""Runs: the only package that turns a config into objects, and that executes a run until its record is finished."""

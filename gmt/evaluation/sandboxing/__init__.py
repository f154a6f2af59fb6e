"""Runs what a model wrote without harm to anybody: `sandbox` is the way in."""

"""Runs programs that a model wrote in a sandbox; the module `sandbox` has the functions to call."""

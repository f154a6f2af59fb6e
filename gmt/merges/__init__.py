"""Merges: weights out of those of finished runs. Each is one file; a yaml's `_target_` names it."""

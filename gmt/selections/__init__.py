"""Selections: which of the training examples are trained on. Each is one file; a yaml's `_target_` names it."""

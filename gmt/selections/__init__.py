"""Selections choose the examples that a run trains on. Each selection is one file; a yaml's `_target_` names it."""

"""Diagnostics measure finished runs. Each diagnostic is one file; a yaml's `_target_` names it."""

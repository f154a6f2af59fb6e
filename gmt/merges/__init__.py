"""Merges compute weights from the weights of finished runs. Each merge is one file; a yaml's `_target_` names it."""

"""Methods: what is updated, and how. Each is one file, its settings first; a yaml's `_target_` names it."""

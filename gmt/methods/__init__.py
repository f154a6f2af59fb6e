"""Methods: which entries are trained, and how. Each method is one file; a yaml's `_target_` names its class."""

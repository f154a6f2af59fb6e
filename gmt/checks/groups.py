"""The config groups that `gmt check` has laws for. Imports nothing, so that the command line can list them quickly."""

GROUPS = ("method", "task", "model", "train", "study", "selection", "merge", "diagnostic")

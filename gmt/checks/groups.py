"""The config groups that `gmt check` knows laws for. Imports nothing, so that the command line can name them."""

GROUPS = ("method", "task", "model", "train", "study", "selection", "merge", "diagnostic")

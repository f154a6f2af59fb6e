"""The laws that every plug-in keeps, tried in short runs of a small model, for `gmt check` and the contract tests."""

"""Laws that every plug-in keeps, tried in short runs of a small model: what `gmt check` and the contract tests call."""

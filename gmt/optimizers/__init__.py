"""Optimizers that a setting or a method needs and torch lacks. They know torch, and nothing of runs or configs."""

"""Optimizers that torch lacks. They import torch, but nothing about runs or configs."""

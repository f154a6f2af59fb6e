"""Begins the early imports of a worker when Ray imports this module, see gmt_launchers.ray_internals.starts_workers."""

from gmt_launchers.early_imports import begin

begin()

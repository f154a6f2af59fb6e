"""Shims by which Hydra 1.3 finds the sweeper and the launcher: it accepts them under `hydra_plugins` only.

Hydra imports this at every start, so that it imports nothing heavy.
"""

from hydra_plugins.gmt_hydra.ray_tune_launcher import RayTuneLauncher
from hydra_plugins.gmt_hydra.study_sweeper import StudySweeper

__all__ = ["RayTuneLauncher", "StudySweeper"]

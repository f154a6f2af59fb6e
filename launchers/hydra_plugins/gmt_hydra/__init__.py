"""Shims by which Hydra 1.3 finds the sweeper and the launcher: it accepts them under `hydra_plugins` only.

Hydra imports these modules at every start, so that they import nothing heavy at their top.
"""

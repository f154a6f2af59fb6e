"""Hydra's entry points to the sweeper and the launcher: Hydra 1.3 accepts plug-ins under `hydra_plugins` only.

Hydra imports these modules at every start, so they must not import heavy libraries at the top.
"""

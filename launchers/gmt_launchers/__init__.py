"""How a sweep's jobs reach cores and machines. The only code that knows Ray.

The interface is Hydra's Launcher: a list of override lists in, a list of JobReturns out. Debugging in process is
Hydra's own basic launcher (`hydra/launcher=basic`).
"""

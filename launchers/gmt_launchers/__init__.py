"""Runs the jobs of a sweep on cores and machines by Ray; no other package imports Ray.

The interface is Hydra's Launcher: it takes a list of override lists and returns a list of JobReturns. For debugging,
Hydra's basic launcher (`hydra/launcher=basic`) runs jobs in the driver's process.
"""

import os

# Read by Ray as it is imported. A sweep that ends leaves Ray; a call of Tune's thread that comes after that must fail,
# and not start a new Ray that nobody ends.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
# Read by Ray as ray.train is imported. The older Ray Train lacks the errors that ray_train.py handles.
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
# Read by Ray's workers: a worker that reserves no GPU sees none.
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "1"

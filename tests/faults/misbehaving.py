"""A method that trains like sft and misbehaves once: the plug-in by which the fault tests break a run from inside.

The tests copy this file beside their results, where a worker imports it as any user's plug-in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.methods.sft import Dense, Sft


@dataclass(frozen=True, kw_only=True)
class Misbehaving(Sft):
    """Misbehaves at its first training, and never again once `marker` exists; `always` needs no marker.

    Args:
        fault: hang, hog, kill, disk, memory, bug.
        marker: a file.
        always: whether to misbehave every time.
    """

    fault: str
    marker: str
    always: bool

    def attach(self, model: Any, optimizer: Any, *, seed: int, facts_every: int) -> Dense:
        marker = Path(self.marker)
        if self.always or not marker.exists():
            marker.touch()
            getattr(self, f"_{self.fault}")(model)
        return Dense()

    def _hang(self, model: Any) -> None:
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL: nothing written in Python can end this

    def _hog(self, model: Any) -> None:
        held = []
        while True:
            held.append(os.urandom(1) * 200_000_000)

    def _kill(self, model: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _disk(self, model: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def _bug(self, model: Any) -> None:
        raise ZeroDivisionError("a bug in a plug-in")

    def _memory(self, model: Any) -> None:
        """A GPU that holds four examples: a larger batch raises what CUDA's allocator raises."""
        import torch

        def refuse(module: Any, args: Any, kwargs: Any) -> None:
            if module.training and len(kwargs["input_ids"]) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. (as the test wants it)")

        model.register_forward_pre_hook(refuse, with_kwargs=True)

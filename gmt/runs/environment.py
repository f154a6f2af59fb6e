"""On what a run ran: versions, commit, hardware. Recorded beside the result; never part of the run id."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from gmt.runs.hermetic import KERNELS

_PACKAGES = (
    *("gmt-lab", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors"),
    *("huggingface-hub", "lm-eval", "reasoning-gym", "numpy", "ray", "mlflow", "hydra-core"),
)


def environment() -> dict[str, Any]:
    """What is the same for every run of this process, with threads and kernels as they are now."""
    chosen = {name: os.environ[name] for name in KERNELS if name in os.environ}
    kernels = {"cpu": torch.backends.cpu.get_cpu_capability(), **chosen}
    return _of_process() | {"torch_threads": torch.get_num_threads(), "kernels": kernels}


@lru_cache(maxsize=1)
def _of_process() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (changes := _git("status", "--porcelain")) is None else bool(changes),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        "cpu_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this code lies in; None if it lies in none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()

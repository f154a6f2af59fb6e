"""Run settings that do not affect results and are not part of the run id. Imports no torch."""

import errno
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gmt import ownership, settings
from gmt.errors import MachineFault, UserError
from gmt.machine_faults import machine_fault

AUTO = "auto"
MERGED = "merged"
DEVICES = (AUTO, "cpu", "cuda")
SHARDINGS = ("none", "fsdp")


def _try_to_write(folder: Path) -> None:
    """Make a folder below `folder` and remove it; os.access alone misleads for root, /proc and network disks.

    Raises:
        OSError: no folder can be made there. A full or failing disk raises nothing: it is no fault of the settings.
    """
    if not os.access(folder, os.W_OK):
        raise PermissionError
    try:
        tempfile.TemporaryDirectory(prefix=".gmt-", dir=folder).cleanup()
    except OSError as error:
        if machine_fault(error) is None or error.errno == errno.EROFS:
            raise


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Where and how often a run is recorded.

    Args:
        root: the folder for everything that this project writes.
        log_every: optimizer steps between logged metrics.
        checkpoint_every: optimizer steps between checkpoints; a kill loses at most this many steps.
        evaluate_every: optimizer steps between evaluations of the target suites; 0 evaluates after the last step only.
        evaluate_source: whether evaluations before the last step include the source suites.
        keep_weights: which final weights the record saves, as safetensors: false: none; true: the whole weights, or
            only the added parts of a method that adds parts to the model; `merged`: the added parts and the whole
            weights, which merges need.
        trust_others: whether a run resumes from checkpoints, and reads scores, that another user could have written.
    """

    root: str
    log_every: int
    checkpoint_every: int
    evaluate_every: int
    keep_weights: bool | str
    trust_others: bool = False
    evaluate_source: bool = False

    def __post_init__(self) -> None:
        settings.integer("record.log_every", self.log_every, low=1)
        settings.integer("record.checkpoint_every", self.checkpoint_every, low=1)
        settings.integer("record.evaluate_every", self.evaluate_every, low=0)
        if not isinstance(self.keep_weights, bool) and self.keep_weights != MERGED:
            raise UserError(f"record.keep_weights must be true, false or {MERGED}, got {self.keep_weights!r}")
        settings.boolean("record.trust_others", self.trust_others)
        settings.boolean("record.evaluate_source", self.evaluate_source)
        try:
            nearest = next(p for p in (self.runs, *self.runs.parents) if p.exists())
            if not nearest.is_dir():
                raise NotADirectoryError
            _try_to_write(nearest)
        except OSError as error:  # also a name that is too long, or a folder that may not be read
            why = f": {error.strerror}" if error.strerror else ""
            if machine_fault(error) is not None and error.errno != errno.EROFS:
                raise MachineFault(f"record.root={self.root!r} can't be read now{why}") from error
            raise UserError(f"record.root must be a folder that can be written, got {self.root!r}{why}") from error

    @property
    def keeps_whole(self) -> bool:
        """Whether the record saves whole weights for every method, also for one that adds parts to the model."""
        return self.keep_weights == MERGED

    @cached_property
    def runs(self) -> Path:
        """The folder of the run records."""
        return settings.path("record.root", self.root) / "runs"

    @cached_property
    def studies(self) -> Path:
        """The folder of plans and reports."""
        return settings.path("record.root", self.root) / "studies"

    def close_to_others(self) -> None:
        """Make the folder of the run records, and make files of this process unwritable for others from now on.

        Raises:
            UserError: others can write there already.
        """
        if self.trust_others:
            return
        ownership.close_to_others()
        self.runs.mkdir(parents=True, exist_ok=True)
        self._refuse(ownership.foreign_folder(self.runs, self.runs.parent))

    def refuse_foreign(self, path: Path) -> None:
        """Refuse a file or folder below `root` before it is loaded, if another user could have written it.

        Raises:
            UserError: another user could have written it; the sentence names the file, and its owner or mode.
        """
        if not self.trust_others:
            self._refuse(ownership.foreign(path, self.runs.parent))

    def _refuse(self, fault: str | None) -> None:
        if fault is not None:
            raise UserError(
                f"record.root must be writable by you and root alone, since runs load files from it, but {fault}; "
                "`chmod -R go-w` or chown your files, delete those of others, choose another folder, or set "
                "record.trust_others=true (docs/records.md)"
            )


@dataclass(frozen=True, kw_only=True)
class ResourceSettings:
    """The device, cores and workers of one run.

    Args:
        device: `cpu`, `cuda`, or `auto`: `cuda` if `gpus` is above 0, `cpu` otherwise.
        cpus: threads of a worker, and the cores that a launcher reserves for it.
        gpus: GPUs of a worker: 0 computes on the CPU, a fraction lets several runs share a GPU, `auto` is 1 on a
            machine with GPUs and 0 elsewhere.
        workers: processes that train the run together, each with the cpus and gpus above.
        sharding: `none`: each worker holds the whole model (DDP); `fsdp`: each worker holds shards of it (FSDP2).
        memory_gb: main memory that a launcher reserves for a run, in 10^9 bytes; null reserves none.
        stall_limit_s: seconds without progress after which a launcher ends a worker and resumes the run from its
            checkpoint; null waits for ever.
    """

    device: str
    cpus: int
    gpus: float | str
    workers: int
    sharding: str
    memory_gb: float | None
    stall_limit_s: float | None

    def __post_init__(self) -> None:
        settings.one_of("resources.device", self.device, DEVICES)
        settings.integer("resources.cpus", self.cpus, low=1)
        settings.integer("resources.workers", self.workers, low=1)
        self._check_gpus()
        settings.one_of("resources.sharding", self.sharding, SHARDINGS)
        if self.sharding != "none" and self.workers == 1:
            raise UserError(f"resources.sharding must be none for resources.workers=1, got {self.sharding!r}")
        for name in ("memory_gb", "stall_limit_s"):
            if (value := getattr(self, name)) is not None:
                settings.number(f"resources.{name}", value, "must be above 0 or null", low=0, open_low=True)

    def _check_gpus(self) -> None:
        if self.gpus == AUTO:
            return
        rule = "must be auto or lie in [0, 1]: a worker computes on one GPU, and resources.workers on several"
        gpus = settings.number("resources.gpus", self.gpus, rule, low=0, high=1, open_high=False)
        if self.workers > 1 and gpus not in (0, 1):
            raise UserError(
                f"resources.gpus must be auto, 0 or 1 for resources.workers={self.workers}, got {self.gpus}"
            )
        if (gpus > 0) == (self.device == "cpu") and self.device != "auto":
            fits = "0" if self.device == "cpu" else "above 0"
            raise UserError(
                f"resources.gpus must be auto or {fits} for resources.device={self.device}, got {self.gpus}"
            )

    def num_gpus(self, num_available: float) -> float:
        """Return the GPUs of a worker, as a number, on a machine with `num_available` GPUs."""
        if self.gpus != AUTO:
            return float(self.gpus)
        return float(self.device == "cuda" or (self.device == AUTO and num_available > 0))

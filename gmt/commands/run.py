"""`gmt run`: trains and evaluates one model in this process, and prints the progress."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from gmt.composition import to_plain
from gmt.duration import took
from gmt.errors import Interrupted, UserError
from gmt.garbage import no_collections
from gmt.records.record import RecordBusy, RunRecord
from gmt.runs.attempt import existence_check
from gmt.runs.build import Run, build, settings_of
from gmt.runs.foreign_code import foreign_code
from gmt.runs.gpus import gpus_here, hide_gpus, show_one_gpu
from gmt.studies.frozen import STOP, thaw
from gmt.studies.stopping import stops_in_order
from gmt.studies.watch import each_second
from gmt.terminal import say
from gmt.tracking.settings import TrackingSettings


def run_job(config: DictConfig) -> float:
    """Do one run in this process; Hydra's task function. A run of a multirun prints nothing.

    Returns:
        The target score after training, which Hydra's optimizing sweepers take as the objective.

    Raises:
        UserError: a setting is wrong, the run's record was changed, or another process is working on the run.
        RecordBusy: another process is working on a run of a sweep.
        RunFailed: the run failed; its record holds the traceback.
        Interrupted, StoppedEarly: the sweep stopped its run; the next sweep resumes it.
        KeyboardInterrupt: Ctrl-C stopped a single run; `gmt run` resumes it.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    reference = config.get("planned_run")
    if reference is not None:
        return _score(_run_planned(str(reference)))
    plain = to_plain(config)
    run = _on_this_machine(build(plain))
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # a sweeper of Hydra's own
        with no_collections():
            from gmt.runs.execute import execute

        return _score(execute(run))
    if plain.get("study") is not None:
        raise UserError("study belongs to `gmt sweep`; `gmt run` does one run")
    return _score(_run_and_print(run, plain))


def _on_this_machine(run: Run) -> Run:
    """Return the run with its share of this machine's GPUs, and hide the other GPUs from this process."""
    placed = run.with_gpus(gpus_here())
    show_one_gpu() if placed.resources.gpus else hide_gpus()
    return placed


def _score(record: RunRecord) -> float:
    return float(record.result().after["target"]["mean"])


def _run_planned(reference: str) -> RunRecord:
    """Execute a run of a frozen plan without output, since the sweep that planned the run prints its progress."""
    run_id, config, stop = thaw(reference)
    if stop.exists():
        raise Interrupted("stopped on request before it began")
    run = build(config)
    if run.id != run_id:
        raise UserError(
            f"run {run_id} of a sweep's plan has the id {run.id} here: its model, its data or this code was changed "
            "since the sweep began; sweep again"
        )
    with no_collections():
        from gmt.runs.execute import execute
    from gmt.training.control import Control

    return execute(_on_this_machine(run), Control(should_stop=existence_check(stop)))


def _run_and_print(run: Run, config: Mapping[str, Any]) -> RunRecord:
    """Execute a run that is not done, with its progress and its scores printed; return its record."""
    name = f"{run.method.name} seed={run.seed}"
    if run.record.exists():
        run.record.check()
        run.record.check_unchanged()
    if run.record.state() == "done":
        say(f"run {run.id} is done already: {run.record.folder}\n`gmt show {run.id}` shows it")
        return run.record
    run.record_settings.close_to_others()
    tracking = settings_of("tracking", TrackingSettings, config["tracking"])
    for sentence in foreign_code([config]):
        say(f"warning: {sentence}")
    say(f"run {run.id}: {name} on {run.task.name}")
    store = "" if tracking.uri is None else "MLflow's store and "
    say(f"waiting for {store}the imports of torch, transformers and TRL")
    with _progress_printed(run, tracking, name):
        try:
            record = _stoppable(run)
        except RecordBusy as error:
            raise UserError(str(error)) from error
        except Interrupted as error:
            say(str(error))
            raise KeyboardInterrupt from error
    result = record.result()
    for part in ("target", "source"):
        say(f"{part}: {result.before[part]['mean']:.1%} -> {result.after[part]['mean']:.1%}")
    say(f"done{took(result.seconds)}; recorded in {record.folder}, `gmt show {run.id}` shows all of it")
    return record


def _stoppable(run: Run) -> RunRecord:
    """Execute the run in this process; Ctrl-C ends it after its next step or answer, and its record remains."""
    with no_collections():
        from gmt.runs.execute import execute
    from gmt.training.control import Control

    with tempfile.TemporaryDirectory(prefix="gmt-run-") as folder:
        stop = Path(folder) / STOP
        with stops_in_order(stop, say):
            return execute(run, Control(should_stop=existence_check(stop)))


@contextmanager
def _progress_printed(run: Run, tracking: TrackingSettings, name: str) -> Iterator[None]:
    """Within the block, print the run's progress and mirror its record to MLflow."""
    printer = _Printer(run.record)
    with nullcontext() if tracking.uri is None else _mirrored(run, tracking, name) as note_change:

        def print_progress(*, final: bool = False) -> None:
            printer.print_news()
            if note_change is not None:
                note_change(final)

        try:
            with each_second(print_progress):
                yield
        finally:
            print_progress(final=True)


class _Printer:
    """Prints what a run's record shows: evaluations, smaller micro-batches, and each logged step once."""

    def __init__(self, record: RunRecord):
        self._record = record
        rows, self._position = record.metrics()
        self._last_step, self._suite = max((row["step"] for row in rows), default=0), ""
        self._micro_batch_size = record.status().get("micro_batch_size")
        if self._last_step:
            steps = f"an earlier attempt logged steps up to {self._last_step}"
            say(f"{steps}; those since its last checkpoint are trained again, and not printed")

    def print_news(self) -> None:
        """Print what has changed since the last call."""
        suite = (self._record.evaluation_progress() or "").partition(" ")[0]
        if suite and suite != self._suite:
            say(f"evaluating {suite}")
        self._suite = suite or self._suite
        micro_batch_size = self._record.status().get("micro_batch_size")
        if micro_batch_size != self._micro_batch_size:
            size = f"train.micro_batch_size={micro_batch_size}"
            say(f"the GPU's memory is full: the run starts again with {size} and more accumulation steps")
        self._micro_batch_size = micro_batch_size
        rows, self._position = self._record.metrics(self._position)
        for row in rows:
            if "train/loss" in row and row["step"] > self._last_step:
                say(f"step {row['step']:>6}  epoch {row['train/epoch']:.2f}  loss {row['train/loss']:.4f}")
                self._last_step = row["step"]


@contextmanager
def _mirrored(run: Run, tracking: TrackingSettings, name: str) -> Iterator[Callable[[bool], None]]:
    """Within the block, mirror the record to MLflow; yield a function that notes a change, and whether it is final."""
    tags = {"gmt.method": run.method.name, "gmt.task": run.task.name, "gmt.seed": str(run.seed)}
    from gmt.tracking.mirror import Mirror, MirroredRun, OpenStore
    from gmt.tracking.view_process import ViewInOtherProcess

    mirrored = MirroredRun(record=run.record, name=name, tags=tags)
    with ViewInOtherProcess(tracking) as view:
        with no_collections():  # while the store is opened
            import gmt.runs.execute  # noqa: F401
        view.wait_until_open()
        with Mirror(lambda: OpenStore(view=view), say, remedy=f"gmt sync {run.id}") as mirror:
            yield lambda final: mirror.note_change(mirrored, final=final)

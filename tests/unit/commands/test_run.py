"""`gmt run` prints each logged step once, and says why a run begins again."""

from pathlib import Path

import pytest

from gmt.commands.run import _Printer
from gmt.records.record import RunRecord

ID = "a" * 16


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    record = RunRecord(tmp_path, ID)
    record.create({}, {})
    return record


def log(record: RunRecord, step: int) -> None:
    record.append_metrics(step, {"train/epoch": step / 10, "train/loss": 1.0})


def test_steps_that_a_resumed_run_repeats_are_not_printed_again(
    record: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (10, 20):
        log(record, step)
    printer = _Printer(record)
    printer.print_news()
    record.keep_metrics_until(15)
    printer.print_news()
    for step in (20, 30):
        log(record, step)
    record.append_metrics(30, {"eval/target_mean": 0.5})
    printer.print_news()
    printer.print_news()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "an earlier attempt logged steps up to 20; those since its last checkpoint are trained again, and not printed",
        "step     30  epoch 3.00  loss 1.0000",
    ]


def test_a_new_run_prints_all_of_its_steps_and_suites(record: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    printer = _Printer(record)
    log(record, 10)
    record.note_evaluation("addition 3 of 10")
    printer.print_news()
    record.note_evaluation("addition 9 of 10")
    log(record, 20)
    printer.print_news()
    starts = [line.split("  epoch")[0] for line in capsys.readouterr().out.splitlines()]
    assert starts == ["evaluating addition", "step     10", "step     20"]


def test_smaller_micro_batches_are_announced_once(record: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    printer = _Printer(record)
    record.set_status("running", micro_batch_size=8)
    printer.print_news()
    printer.print_news()
    assert capsys.readouterr().out.splitlines() == [
        "the GPU's memory is full: the run starts again with train.micro_batch_size=8 and more accumulation steps"
    ]
    _Printer(record).print_news()
    assert capsys.readouterr().out == ""

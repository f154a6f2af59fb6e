"""Runs that were at work on one machine at the same time are counted."""

import random

import pytest

from gmt.axis import Axis
from gmt.tracking.beside import Span, num_beside, span_of
from gmt.tracking.table import read_table
from tests.finished import finish, plan_of


def test_overlaps_are_counted_as_a_look_at_every_pair_counts_them() -> None:
    draw = random.Random(0)
    spans: list[Span | None] = [None]
    for _ in range(60):
        start = draw.randrange(50)
        spans.append((draw.choice("ab"), float(start), float(start + draw.randrange(1, 9))))
    by_hand = [
        None if x is None else sum(y is not None and x[0] == y[0] and y[1] < x[2] and y[2] > x[1] for y in spans) - 1
        for x in spans
    ]
    assert num_beside(spans) == by_hand


def test_one_after_the_other_is_not_beside() -> None:
    assert num_beside([("a", 0.0, 1.0), ("a", 1.0, 2.0), ("b", 0.0, 2.0)]) == [0, 0, 0]


@pytest.mark.parametrize(
    ("status", "is_running", "expected"),
    [
        ({"host": "a", "started_at": 1.0, "ended_at": 2.0, "updated_at": 3.0}, False, ("a", 1.0, 2.0)),
        ({"host": "a", "started_at": 1.0, "ended_at": None, "updated_at": 3.0}, False, ("a", 1.0, 3.0)),  # killed
        ({"host": "a", "started_at": 1.0, "ended_at": None, "updated_at": 3.0}, True, ("a", 1.0, float("inf"))),
        ({"updated_at": 3.0}, False, None),
    ],
)
def test_when_a_run_was_at_work(status: dict[str, object], is_running: bool, expected: Span | None) -> None:
    assert span_of(status, is_running=is_running) == expected


def test_the_table_says_how_many_were_beside(tmp_path: pytest.TempPathFactory) -> None:
    plan = plan_of(tmp_path, {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}, [1, 2])  # type: ignore[arg-type]
    for planned, started_at in zip(plan.runs, (0.0, 10.0, 30.0, None), strict=True):
        finish(planned, 0.5)
        if started_at is not None:
            planned.record.set_status("done", host="here", started_at=started_at, ended_at=started_at + 15)
    table = read_table(((p.point.arm, p.point.label, p.record) for p in plan.runs), axis=Axis())
    assert table["runs_beside"].astype(object).tolist()[:3] == [1, 1, 0]
    assert table["runs_beside"].isna().tolist() == [False, False, False, True]  # of a record without a machine
    from_before = ["num_cold_steps", "optimizer_state_bytes", "num_trained", "num_touched"]
    assert table[from_before].isna().all(axis=None)  # of records from before these numbers

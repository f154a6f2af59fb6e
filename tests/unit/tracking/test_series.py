"""What runs logged is read back by metric and layer."""

from pathlib import Path

from gmt.axis import Axis
from gmt.tracking.series import COLUMNS, read_series
from tests.finished import finish, plan_of


def test_values_of_layers_and_of_the_model(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"gmt": {"method": "gmt", "method.mask_ratio": 0.5}}, [1, 2])
    for planned in plan.runs:
        finish(planned, 0.7)
        layer = "mask/layers/model.layers.0/overlap"
        planned.record.append_metrics(10, {"train/loss": 1.0, "mask/overlap": 0.6, layer: 0.7})
        planned.record.finish()
    plan.runs[1].record.set_status("failed")
    table = read_series(((p.point.arm, p.point.label, p.record) for p in plan.runs), {"mask/overlap"}, axis=Axis())
    assert list(table.columns) == list(COLUMNS)
    assert table["seed"].tolist() == [1, 1]
    assert table["layer"].fillna("").tolist() == ["", "model.layers.0"]
    assert table["value"].tolist() == [0.6, 0.7]
    assert set(table["name"]) == {"mask/overlap"}
    assert (table["axis"] == 0.5).all()


def test_nothing_is_a_table_too(tmp_path: Path) -> None:
    table = read_series([], {"mask/overlap"}, axis=Axis())
    assert table.empty
    assert table["value"].dtype == "Float64"

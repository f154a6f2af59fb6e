"""A name that becomes a folder or a key in MLflow is refused where it is planned, or fits both."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from gmt import settings
from gmt.diagnostics.protocol import Diagnostic, Shown
from gmt.errors import UserError
from gmt.records.identity import run_id
from gmt.records.record import RunRecord
from gmt.runs.build import plug_in
from gmt.studies.grid import StudySettings
from gmt.tasks.evaluations import check_evaluations
from gmt.tasks.protocol import Suite
from gmt.tracking.mlflow_run import key_of

RULE = "must consist of at most 100 of the characters A-Z, a-z, 0-9, _, . and -, and must not be . or .., got "
HOSTILE = [
    "",
    ".",
    "..",
    "../up",
    "/root",
    "a/b",
    "a b",
    "acc@1",
    "f(x)",
    "a,b",
    "it's",
    "a=b",
    "größe",
    "a\n",
    "a\0",
    "．．",  # noqa: RUF001
    "\\",
    "а",  # noqa: RUF001  a Cyrillic letter
    "x" * 300,
    1,
]
NAMES = st.one_of(st.text(min_size=1, max_size=120), st.text("aB0_.-/@(),'= ", min_size=1, max_size=120))


def study(name: Any = "s", arms: Mapping[Any, Any] | None = None) -> object:
    return StudySettings(name=name, question="?", shared={}, arms={"a": {}} if arms is None else arms)


def evaluation(name: Any) -> object:
    return check_evaluations("task.target", {name: object()})


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A diagnostic from outside of gmt, which trusts its name."""

    name: Any
    needs_weights: bool = False

    @property
    def shown(self) -> Shown:
        return Shown(title="", panels={})

    def rows(self, run: object) -> list[Any]:
        return []


def diagnostic(name: Any) -> object:
    return plug_in("diagnostic", {"_target_": f"{__name__}.Outside", "name": name}, Diagnostic)


PLACES: dict[str, tuple[str, Callable[[Any], object]]] = {
    "study": ("study.name", study),
    "arm": ("the name of an arm in study.arms", lambda name: study(arms={name: {}})),
    "evaluation": ("the name of an evaluation in task.target", evaluation),
    "diagnostic": ("diagnostic.name", diagnostic),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_refused_by_the_rule(place: str, name: object) -> None:
    setting, make = PLACES[place]
    with pytest.raises(UserError) as refused:
        make(name)
    assert str(refused.value).startswith(f"{setting} {RULE}")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("setting", "make"),
    [
        ("the name of an arm in study.arms", lambda names: study(arms={key: {} for key in names})),
        (
            "the name of an evaluation in task.target",
            lambda names: check_evaluations("task.target", dict.fromkeys(names, object())),
        ),
    ],
)
def test_names_that_a_disk_may_take_for_one_are_refused(setting: str, make: Callable[[list[str]], object]) -> None:
    with pytest.raises(
        UserError, match=rf"^{setting} must differ from the others by more than case, got Sums and sums$"
    ):
        make(["other", "Sums", "sums"])


def test_the_name_of_the_mean_is_no_evaluations() -> None:
    with pytest.raises(UserError, match=r"^the name of an evaluation in task\.target must not be mean"):
        evaluation("mean")


@given(name=NAMES)
@example(name="x" * 100)
@example(name="...")
@example(name="-")
def test_a_name_that_is_taken_is_one_folder_and_one_key(name: str) -> None:
    try:
        settings.folder_name("a name", name)
    except UserError:
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f".{name}.json.{'0' * 32}").touch()  # the longest that we make of one
        (Path(folder) / name).mkdir()
        assert len(os.listdir(folder)) == 2
    _validate_metric_name(f"eval/source/{name}_{'m' * 50}")


KEYS = st.one_of(st.text(min_size=1, max_size=300), st.text("ab/.:@(),'= -", min_size=1, max_size=300))


@given(one=KEYS, other=KEYS)
@example(one="mask/kept@1", other="mask/kept(1")
@example(one="a//b", other="a/b")
@example(one="x" * 251, other="x" * 252)
@example(one="..", other="/")
@example(one="0", other="..0")
@example(one="....a/..b", other="//..0")
@profile(deadline=None)
def test_every_name_has_a_key_of_its_own_that_mlflow_takes(one: str, other: str) -> None:
    assume(one != other)
    assert key_of(one) != key_of(other)
    for name in (one, other):
        _validate_metric_name(key_of(name))
        assert len(key_of(name)) <= MAX_ENTITY_KEY_LENGTH
    assert key_of("train/loss") == "train/loss"


@pytest.mark.heavy
def test_a_record_with_names_of_any_letters_reaches_mlflow_whole(tmp_path: Path) -> None:
    from gmt.tracking.mlflow_view import MlflowView
    from gmt.tracking.settings import TrackingSettings

    model = {"name": "m/" + "x" * 400}
    task = {"_target_": "a.T", "name": "a: b%c" * 100, "train": {"long (words)": {"x" * 300: 1}}}
    science = {"model": model, "task": task, "method": {"name": "its/own%"}, "seed": 1}
    science |= {"fingerprints": {"model": "f", "task": "g"}}
    record = RunRecord(tmp_path / "runs", run_id(science))
    record.create(science, {})
    record.append_metrics(1, {"train/loss": 1.0, "mask/kept@1 (all)": 2.0, "mask/layers/" + "x" * 300: 3.0})
    record.set_status("failed", attempts=1, ended_at=1.0)
    (record.folder / "weights").mkdir()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    view = MlflowView(TrackingSettings(uri=uri, artifacts=str(tmp_path / "artifacts"), experiment="e"))
    assert view.sync(record, name="label " * 100, parent=None, tags={"gmt.task": str(task["name"])}, final=True)
    view.close()
    (run,) = view._client.search_runs([view._experiment_id])
    assert run.info.status == "FAILED"
    assert sorted(run.data.metrics.values()) == [1.0, 2.0, 3.0]
    assert run.data.params[key_of("task.train.long (words)." + "x" * 300)] == "1"
    assert len(run.inputs.dataset_inputs) == 1


@pytest.mark.parametrize("name", ["/victim", "a/b", "mean"])
def test_a_task_plug_ins_own_suites_are_held_to_the_rule_before_a_run(name: str) -> None:
    from gmt.runs.prepare import _suites

    suite = Suite(name="sums", prompts=["1+1="], score=lambda index, text: 0.0, max_new_tokens=1)
    task: Any = SimpleNamespace(suites=lambda: {"target": {name: suite}, "source": {"sums": suite}})
    with pytest.raises(UserError, match=r"^the name of an evaluation in task\.target must "):
        _suites(task, None)  # type: ignore[arg-type]

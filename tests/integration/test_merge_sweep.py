"""A study of merges from its start to its report, with real Ray and real MLflow; a merge of a merge, a transfer."""

import shutil
from pathlib import Path

import pytest
import torch
from gmt_analysis.results import Results
from mlflow.tracking import MlflowClient

from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from tests.conftest import CONF, gmt_in
from tests.merging import base_of, weights_of
from tests.models import pretrained

pytestmark = pytest.mark.slow

TRANSFER = "  moved: { from: sft, merge: transfer, model: other }\n"
MODEL = "defaults:\n  - pretrained\n  - _self_\nname: other\npath: {}\n"
OF_ARM = {"wise": "wise_ft", "dare": "dare", "soup": "soup", "ties": "ties", "lines": "lines", "moved": "transfer"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tests/conf/study/tiny_merges.yaml, with a transfer to a base of other weights, swept once."""
    folder = tmp_path_factory.mktemp("swept")
    shutil.copytree(CONF, folder / "conf")
    study = folder / "conf" / "study" / "tiny_merges.yaml"
    study.write_text(study.read_text() + TRANSFER)
    (folder / "conf" / "model").mkdir()
    (folder / "conf" / "model" / "other.yaml").write_text(MODEL.format(folder / "other"))
    model = pretrained().load_model()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    model.save_pretrained(folder / "other")
    pretrained().load_tokenizer().save_pretrained(folder / "other")
    done = gmt_in(folder)(
        "sweep", "study=tiny_merges", "--config-dir", "conf", "record.keep_weights=true", timeout_s=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def plan(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(swept)
    return planned(["study=tiny_merges", "record.keep_weights=true"], str(swept / "conf"))[0]


def test_every_merge_is_done_and_has_a_row_of_the_table(plan: Plan) -> None:
    assert set(plan.states().values()) == {"done"}
    table = Results(plan, dirty=True).table
    assert len(table) == len(plan.runs)
    merges = table[table["merge"].notna()]
    arms = merges["arm"].str.split().str[0]  # of `wise alpha=0.25` its first word
    assert dict(zip(arms, merges["merge"], strict=True)) == OF_ARM
    assert merges[["target_after", "forgetting", "moved_fraction"]].notna().all(axis=None)
    assert merges[["density", "num_steps"]].isna().all(axis=None)
    assert table.loc[table["arm"] == "ties", "seed"].isna().all()


def test_mlflow_has_every_merge_below_the_sweep(plan: Plan, swept: Path) -> None:
    client = MlflowClient(f"sqlite:///{swept}/gmt-results/mlflow.db")
    experiment = client.get_experiment_by_name("tiny_merges")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], "tags.`gmt.kind` = 'run'")
    by_id = {child.data.tags["gmt.run_id"]: child for child in children}
    assert set(by_id) == {planned.run.id for planned in plan.runs}
    for planned_run in plan.runs:
        child, merge = by_id[planned_run.run.id], planned_run.run.merge
        assert child.info.status == "FINISHED"
        assert child.data.tags.get("gmt.merge") == (merge and merge.name)
        assert child.data.metrics["result/forgetting"] == planned_run.record.read("result.json")["forgetting"]


def test_a_transfer_has_its_parents_delta_on_its_own_base(plan: Plan) -> None:
    runs = {(each.point.arm, each.run.seed): each.run for each in plan.runs}
    for seed in (1, 2):
        parent, run = runs["sft", seed], runs["moved", seed]
        base, tuned, other = base_of(parent), weights_of(parent), base_of(run)
        for name, weight in weights_of(run).items():
            assert torch.equal(weight, other[name] + (tuned[name] - base[name])), name


def test_the_report_names_every_arm(swept: Path) -> None:
    done = gmt_in(swept)("report", "study=tiny_merges", "--config-dir", "conf", "record.keep_weights=true", "--dirty")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (swept / "gmt-results/studies/tiny_merges/report/index.html").read_text()
    assert all(arm in page for arm in ("sft", "gmt", *OF_ARM))
    assert "no test compares ties" in page

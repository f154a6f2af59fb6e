"""Arms that merge the runs of another arm: which, by what settings and ids; what is refused; who waits for whom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import RunFailed, UserError
from gmt.runs.build import build
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.multirun import by_overrides
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.sweep import in_order, run_sweep
from gmt.tracking.settings import TrackingSettings
from tests.conftest import CONF
from tests.finished import finish, plan_of

pytestmark = pytest.mark.heavy

GMT = {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}
SOUP = {"from": "gmt", "over": "method.mask_ratio", "merge": "soup"}
NOWHERE = TrackingSettings(uri=None, artifacts="x", experiment="x")


def study_of(root: Path, arms: dict[str, dict[str, Any]], cli: dict[str, list[str]] | None = None, **more: Any) -> Plan:
    shared = {"seed": [1, 2]} | more.pop("shared", {})
    study = StudySettings(name="made", question="?", shared=shared, arms=arms, **more)
    with hydra_on(str(CONF)):
        return make_plan(Composer(), study, {"record.root": [str(root)], **(cli or {})})


def of(plan: Plan, arm: str) -> list[PlannedRun]:
    return [planned for planned in plan.runs if planned.point.arm == arm]


def test_a_merge_has_its_parents_settings_and_its_own(tmp_path: Path) -> None:
    plan = study_of(tmp_path, {"gmt": GMT, "wise": {"from": "gmt", "merge": "wise_ft", "merge.alpha": [0.2, 0.8]}})
    assert len(of(plan, "wise")) == 2 * 2 * 2
    assert of(plan, "wise")[1].point.label == "wise alpha=0.8 mask_ratio=0.5 seed=1"
    for merge in of(plan, "wise"):
        (parent,) = (each.run for each in of(plan, "gmt") if each.run.id in merge.run.parent_ids)
        assert (merge.run.seed, merge.run.config["method"]) == (parent.seed, parent.config["method"])
        assert {**merge.run.science, "merge": None} == {**parent.science, "merge": None}


def test_a_merge_of_a_study_is_the_run_of_the_same_settings(tmp_path: Path) -> None:
    plan = study_of(tmp_path, {"gmt": GMT, "wise": {"from": "gmt", "merge": "wise_ft"}}, {"seed": ["2"]})
    with hydra_on(None):
        alone = build(Composer().compose_plain(["method=gmt", "method.mask_ratio=0.9", "seed=2", "merge=wise_ft"]))
    assert alone.id == of(plan, "wise")[1].run.id


def test_several_parents_differ_in_one_setting_and_share_the_seed(tmp_path: Path) -> None:
    plan = study_of(tmp_path, {"gmt": GMT, "soup": SOUP})
    assert [planned.point.label for planned in of(plan, "soup")] == ["soup seed=1", "soup seed=2"]
    for soup in of(plan, "soup"):
        parents = [each for each in of(plan, "gmt") if each.run.id in soup.run.parent_ids]
        assert {parent.run.seed for parent in parents} == {soup.run.seed}
        assert [parent.run.config["method"]["mask_ratio"] for parent in parents] == [0.5, 0.9]
        assert soup.run.config["over"] == ["method.mask_ratio"]
        assert "over" not in soup.run.science


def test_a_soup_over_seeds_is_one_run(tmp_path: Path) -> None:
    plan = study_of(tmp_path, {"sft": {"method": "sft"}, "soup": {"from": "sft", "over": "seed", "merge": "soup"}})
    (soup,) = of(plan, "soup")
    assert list(soup.run.parent_ids) == [parent.run.id for parent in of(plan, "sft")]
    assert (soup.point.label, soup.run.config["over"]) == ("soup", ["seed"])


def test_a_merge_over_tasks_is_evaluated_on_each(tmp_path: Path) -> None:
    tasks = ["long_words", "three_sums"]
    arms = {"sft": {"method": "sft"}, "ties": {"from": "sft", "over": "task", "merge": "ties", "task": tasks}}
    plan = study_of(tmp_path, arms, shared={"task": tasks})
    assert sorted((each.run.task.name, each.run.seed) for each in of(plan, "ties")) == [
        (task, seed) for task in tasks for seed in (1, 2)
    ]
    for ties in of(plan, "ties"):
        parents = [each.run for each in of(plan, "sft") if each.run.id in ties.run.parent_ids]
        assert [(parent.task.name, parent.seed) for parent in parents] == [(task, ties.run.seed) for task in tasks]
        assert ties.run.config["over"] == []


def test_a_merge_of_a_merge_knows_what_all_its_runs_differ_in(tmp_path: Path) -> None:
    plan = study_of(tmp_path, {"lines": {"from": "soup", "merge": "lines"}, "gmt": GMT, "soup": SOUP})
    for lines, soup in zip(of(plan, "lines"), of(plan, "soup"), strict=True):
        assert lines.run.parents == (soup.run.id,)
        assert lines.run.config["over"] == ["method.mask_ratio"]
    assert [planned.point.arm for planned in in_order(plan.runs)][-4:] == ["soup", "soup", "lines", "lines"]


def test_a_setting_of_the_parents_chooses_among_them_and_another_is_the_merges(tmp_path: Path) -> None:
    arms = {"gmt": GMT, "wise": {"from": "gmt", "merge": "wise_ft", "method.mask_ratio": 0.9, "task": "three_sums"}}
    plan = study_of(tmp_path, arms)
    for merge in of(plan, "wise"):
        (parent,) = (each.run for each in of(plan, "gmt") if each.run.id in merge.run.parent_ids)
        assert (parent.config["method"]["mask_ratio"], parent.task.name) == (0.9, "long_words")
        assert merge.run.task.name == "three_sums"


def test_overrides_reach_parents_and_overrides_of_merge_reach_merges(tmp_path: Path) -> None:
    cli = {"seed": ["3"], "train.learning_rate": ["0.001"], "merge.alpha": ["0", "1"]}
    plan = study_of(tmp_path, {"sft": {"method": "sft"}, "wise": {"from": "sft", "merge": "wise_ft"}}, cli)
    assert [planned.point.label for planned in plan.runs] == [
        "sft seed=3",
        "wise alpha=0 seed=3",
        "wise alpha=1 seed=3",
    ]
    assert {planned.run.train.learning_rate for planned in plan.runs} == {0.001}


@pytest.mark.parametrize(
    ("arm", "more", "sentence"),
    [
        ({"from": "sgd", "merge": "soup"}, {}, r"study\.arms\.merged\.from must name an arm of the study, got 'sgd'"),
        ({"over": "seed", "merge": "soup"}, {}, r"study\.arms\.merged\.over needs study\.arms\.merged\.from"),
        ({"from": "gmt"}, {}, r"study\.arms\.merged\.merge must be set in an arm with from, got None"),
        ({"from": "merged", "merge": "soup"}, {}, r"merged\.from must not lead back to the arm itself, got 'merged'"),
        (
            {"from": "gmt", "over": "task", "merge": "soup"},
            {},
            r"merged\.over must be a setting for which arm gmt has at least 2 values, got 'task'; .*mask_ratio, seed",
        ),
        ({"from": "gmt", "merge": "soup"}, {}, "arm merged: merge=soup needs at least 2 parents, got 1"),
        (
            {"from": "gmt", "over": "seed", "merge": "wise_ft"},
            {},
            "arm merged: merge=wise_ft takes at most 1 parent, got 2",
        ),
        (
            {"from": "gmt", "merge": "wise_ft"},
            {"shared": {"record.keep_weights": False}},
            r"arm merged: merge=wise_ft needs the weights of run \w+, which must save them: record.keep_weights",
        ),
        (
            {"from": "gmt", "merge": "wise_ft"},
            {"shared": {"search": "asha", "record.evaluate_every": 1}},
            "arm merged: merge=wise_ft can't go with search",
        ),
        (
            {"from": "lora", "merge": "wise_ft"},
            {},
            r"needs the weights of run \w+, whose method lora saves only the adapter: record.keep_weights must",
        ),
        (
            {"merge": "wise_ft", "method": "hft"},
            {},
            "arm merged: merge=wise_ft needs the weights of run .* has no record",
        ),
    ],
)
def test_a_wrong_arm_is_a_sentence(tmp_path: Path, arm: dict[str, Any], more: dict[str, Any], sentence: str) -> None:
    arms = {"gmt": GMT, "lora": {"method": "lora"}, "merged": arm}
    with pytest.raises(UserError, match=sentence):
        study_of(tmp_path, arms, **more)


def test_a_merge_that_is_done_needs_its_parents_no_more(tmp_path: Path) -> None:
    arms = {"sft": {"method": "sft"}, "wise": {"from": "sft", "merge": "wise_ft"}}
    for planned in plan_of(tmp_path, arms, [1]).runs:
        finish(planned, 0.5)  # it keeps no weights
    assert set(plan_of(tmp_path, arms, [1]).states().values()) == {"done"}


def test_a_sweep_makes_a_merge_once_its_parents_are_done_and_fails_it_with_them(tmp_path: Path) -> None:
    arms = {"lines": {"from": "soup", "merge": "lines"}, "gmt": GMT, "soup": SOUP}
    plan = study_of(tmp_path, arms, shared={"task": "tiny"})
    begun: list[list[str]] = []

    def launch(jobs: Sequence[Sequence[str]]) -> None:
        ids = [job[0].split("#")[1] for job in jobs]
        planned = {each.run.id: each for each in plan.runs}
        begun.append([planned[id_].point.label for id_ in ids])
        for each in (planned[id_] for id_ in ids):
            if each.point.label == "gmt mask_ratio=0.9 seed=2":
                each.record.create(each.run.science, each.run.config)
                each.record.note_failure("failed", "error", "it broke")
            else:
                finish(each, 0.5)

    said: list[str] = []
    with pytest.raises(RunFailed, match="3 of 8 runs are not done"):
        run_sweep(plan, NOWHERE, by_overrides(launch), _Silent(), say=said.append, remedy="")
    assert [sorted(labels) for labels in begun] == [
        sorted(each.point.label for each in of(plan, "gmt")),
        ["soup seed=1"],
        ["lines seed=1"],
    ]
    lost, failed = (of(plan, arm)[1].record for arm in ("soup", "lines"))
    assert (lost.state(), failed.state()) == ("failed", "failed")
    assert "merge=soup needs the weights of run" in lost.status()["error"]
    assert "which is failed: it broke" in lost.status()["error"]
    assert f"merge=lines needs the weights of run {lost.id}, which is failed" in failed.status()["error"]


class _Silent:
    def show_end(self, _: object) -> None: ...

    def show_snapshot(self, _: object) -> None: ...

    def close(self) -> None: ...

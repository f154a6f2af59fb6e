"""What a shell is offered: groups and their files, settings and their choices, studies, ids of runs."""

from pathlib import Path

from gmt import config_files
from gmt.commands.completion import overrides, runs, topics
from gmt.commands.parsers import make_parser, sub_parsers
from gmt.masking.spec import ENTROPY, SCOPES
from tests.finished import plan_of

COMMANDS = sub_parsers(make_parser())


def offered(prefix: str, *given: str, command: str = "run", own: str | None = None) -> list[str]:
    """The candidates that a shell keeps: those that begin so."""
    return [word for word in overrides(prefix, given, own, command=command) if word.startswith(prefix)]


def test_groups_come_first_and_settings_behind_a_dot() -> None:
    assert {"model=", "method=", "seed="} <= set(offered(""))
    assert not any("." in word for word in offered(""))
    assert offered("met") == ["method="]
    assert offered("method.mask") == ["method.mask_ratio=", "method.mask_on="]
    assert offered("sta", command="sweep") == []
    assert offered("stu", command="sweep") == ["study="]
    assert offered("clus", command="submit") == ["cluster="]
    assert set(offered("rec")) == {f"record.{key}=" for key in config_files.own_settings()["record"]}


def test_settings_are_those_of_the_chosen_file() -> None:
    assert offered("method.rank") == []
    assert offered("method.rank", "method=lora") == ["method.rank="]
    assert offered("task.train.") == [
        f"task.train.long_words.{key}="
        for key in ("family", "num_examples", "settings.min_word_len", "settings.max_word_len")
    ]
    assert offered("cluster.nod", "cluster=slurm", command="submit") == ["cluster.nodes="]


def test_values_are_the_files_of_a_group_or_the_choices_of_a_setting() -> None:
    assert offered("method=") == [f"method={name}" for name in config_files.names("method")]
    assert offered("method.scope=") == [f"method.scope={scope}" for scope in (*SCOPES, ENTROPY)]
    assert offered("train.packing=") == ["train.packing=true", "train.packing=false"]
    assert offered("hydra/launcher=", command="sweep") == ["hydra/launcher=basic", "hydra/launcher=ray_tune"]
    assert offered("seed=") == offered("nothing=") == offered("method.nothing=") == []


def test_a_list_goes_on_behind_its_comma() -> None:
    assert offered("method=sft,gm") == ["method=sft,gmt", "method=sft,gmt_update"]
    assert offered("method.keep=largest,") == ["method.keep=largest,largest", "method.keep=largest,smallest"]


def test_a_plus_adds_what_the_file_does_not_name_and_a_tilde_takes_no_value() -> None:
    given = "study=quickstart"
    assert "+study.margin=" in offered("+study.", given, command="sweep")
    assert "+study.name=" not in offered("+study.", given, command="sweep")
    assert offered("+selection.keep=", "selection=base_loss") == [
        f"+selection.keep={word}" for word in ("lowest", "highest", "middle")
    ]
    assert offered("~sel") == ["~selection"]


def test_files_of_the_users_own_are_offered(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("# Mine. Of my own.\ndefaults: [gmt]\nextra: 1\n")
    assert overrides("method=mi", [], str(tmp_path), command="run")["method=mine"] == "Mine."
    assert offered("method.ext", "method=mine", own=str(tmp_path)) == ["method.extra="]


def test_runs_are_offered_by_what_they_were(tmp_path: Path) -> None:
    (planned,) = plan_of(tmp_path, {"sft": {"method": "sft"}}, [3]).runs
    planned.record.create(planned.run.science, planned.run.config)
    planned.record.set_status("failed")
    root = f"record.root={tmp_path}"
    assert runs("", [root]) == {planned.run.id: "sft on long_words, seed=3, failed"}
    assert runs(planned.run.id[:3], [root]).keys() == {planned.run.id}
    assert runs("../", [root]) == runs("", [f"record.root={tmp_path / 'nowhere'}"]) == {}
    assert planned.run.id in overrides("", [root], None, command="sync")


def test_topics_of_help() -> None:
    assert {"plan", "method", "record", "study.tuning"} <= topics("", COMMANDS, None).keys()
    assert "method=lora" in topics("method=lo", COMMANDS, None)
    assert "method.mask_ratio" in topics("method.", COMMANDS, None)

"""Composing once for each choice of groups equals Hydra's own composition."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmt.composition import Composer, hydra_on, parse_override, to_plain
from gmt.errors import UserError
from tests.conftest import ROOT

CONF = ROOT / "conf"
CASES = [
    [],
    ["method=rmt", "method.mask_ratio=0.25", "seed=7"],
    ["train.learning_rate=3e-4", "method=hft"],
    ["model.path='a b'", "tracking=none", "record.root=/x"],
    ["task.target.long_words.settings={min_word_len:4,max_word_len:6}"],
    ["+method.extra=1", "~seed"],
    ["study=quickstart", "method=sft", "study.question=why"],
]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra_on(None):
        yield


@pytest.mark.parametrize("overrides", CASES)
def test_it_equals_hydras_composition(overrides: list[str]) -> None:
    composer = Composer()
    composer.compose_plain(["method.mask_ratio=0.1"])  # a composition before must not show in one after
    assert composer.compose_plain(overrides) == to_plain(compose("config", overrides=overrides))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["method=gmt"], ["method=lora", "train=dpo"]),
        (["method=sft", "selection=random", "train=quickstart"], ["method=spt", "selection=shortest", "train=sft"]),
        (["task=long_words", "method=gmt"], ["task=three_sums", "method=rmt", "method.mask_ratio=0.25"]),
        (["merge=soup", "search=asha"], ["merge=ties", "search=asha"]),
    ],
)
def test_other_choices_of_groups_equal_hydras_composition(first: list[str], then: list[str]) -> None:
    composer = Composer()
    for overrides in (first, then, first):
        assert composer.compose_plain(overrides) == to_plain(compose("config", overrides=overrides))


def test_a_file_with_a_package_or_defaults_is_left_to_hydra(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "wide.yaml").write_text("# @package _global_\nmethod: {name: wide}\nseed: 7\n")
    (tmp_path / "method" / "built.yaml").write_text("defaults: [gmt]\nname: built\n")
    GlobalHydra.instance().clear()
    with hydra_on(str(tmp_path)):
        composer = Composer()
        for name in ("gmt", "wide", "built", "rmt"):
            assert composer.compose_plain([f"method={name}"]) == to_plain(compose("config", [f"method={name}"]))


def test_a_group_that_another_file_writes_to_is_left_to_hydra(tmp_path: Path) -> None:
    (tmp_path / "selection").mkdir()
    (tmp_path / "selection" / "bold.yaml").write_text("# @package _global_\ntrain: {learning_rate: 7}\n")
    GlobalHydra.instance().clear()
    with hydra_on(str(tmp_path)):
        composer = Composer()
        for train in ("quickstart", "sft"):
            overrides = ["selection=bold", f"train={train}"]
            assert composer.compose_plain(overrides) == to_plain(compose("config", overrides))


def test_a_users_file_that_writes_to_other_groups_is_composed_by_hydra(tmp_path: Path) -> None:
    """Even if the first chosen file has the same value, so that composing it shows no difference."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text("# @package _global_\nmethod:\n  mask_ratio: 0.8\n")
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        (CONF / "method" / "gmt.yaml").read_text().replace("mask_ratio: 0.8", "mask_ratio: 0.123")
    )
    GlobalHydra.instance().clear()
    with hydra_on(str(tmp_path)):
        composer = Composer()
        for name in ("gmt", "mine", "rmt"):
            assert composer.compose_plain(["+experiment=x", f"method={name}"])["method"]["mask_ratio"] == 0.8
        assert composer.compose_plain(["method=mine"])["method"]["mask_ratio"] == 0.123


def test_no_file_of_ours_writes_to_other_groups() -> None:
    """Therefore choosing one of these files leaves values of other groups unchanged."""
    texts = [path.read_text() for path in CONF.rglob("*.yaml")]
    assert texts
    assert not [text for text in texts if "_global_" in text]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method=gtm", r"there is no method 'gtm'; did you mean 'gmt'\?"),
        ("task=long_word", r"there is no task 'long_word'; did you mean 'long_words'\?"),
        ("study=quickstrat", r"there is no study 'quickstrat'; did you mean 'quickstart'\?"),
        ("method.mask_rato=0.5", r"method has no setting 'mask_rato'; did you mean 'mask_ratio'\?"),
        ("sed=1", r"the config has no setting 'sed'; did you mean 'seed'\?"),
        ("method.mask_ratio.x=1", r"method\.mask_ratio has no setting 'x'"),
        ("tracking=server", r"tracking\.uri is missing"),
        ("seed", "seed"),
        ("seed=${nowhere}", "nowhere"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        Composer().compose_plain([override])
    assert len(caught.value.sentences) == 1
    assert "\n" not in str(caught.value)


def test_a_value_that_an_interpolation_reads_reaches_it() -> None:
    composer = Composer()
    for root in ("/a", "/b", "/c"):
        plain = composer.compose_plain([f"record.root={root}", "seed=2"])
        assert plain["tracking"]["uri"] == f"sqlite:///{root}/mlflow.db"


def test_runs_of_one_kind_differ_in_their_values_only() -> None:
    composer = Composer()
    made = [composer.compose_plain(["method=gmt", f"method.mask_ratio={r}", f"seed={r * 10:g}"]) for r in (0.1, 0.5)]
    assert [config["method"]["mask_ratio"] for config in made] == [0.1, 0.5]
    assert [config["seed"] for config in made] == [1, 5]
    assert made == [
        to_plain(compose("config", overrides=["method=gmt", f"method.mask_ratio={r}", f"seed={r * 10:g}"]))
        for r in (0.1, 0.5)
    ]


def test_a_group_takes_the_name_of_one_file_or_a_mapping() -> None:
    parser = OverridesParser.create()
    for text in ("method=sft", "method='sft'", "method=sft,gmt", "~method", "+method={_target_:mine.Mine,name:mine}"):
        parse_override(parser, text)
    for text, sentence in {
        "method=[sft,gmt]": "method must name one file, got [sft,gmt]; method=sft,gmt does a run for each",
        "+model=[a,b]": "model must name one file, got [a,b]; +model=a,b does a run for each",
        "method=[gmt]": "method must name one of its files, got [gmt]; leave it out, or write ~method to remove it",
        "search=null": "search must name one of its files, got null; leave it out, or write ~search to remove it",
        "task=3": "task must name one of its files, got 3; leave it out",
    }.items():
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
            parse_override(parser, text)

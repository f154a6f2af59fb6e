"""Help explains settings by what their classes and files say: no second list, every setting has a meaning."""

import re
from dataclasses import dataclass, fields
from typing import Any

import pytest

from gmt import config_files, settings
from gmt.cli import run_command
from gmt.commands.explain.run_page import run_page
from gmt.commands.explain.setting import SETTINGS_CLASSES, meanings, settings_class_of, settings_in
from gmt.commands.explain.sweep_page import sweep_page
from gmt.docstrings import arguments_of, first_sentence
from gmt.masking.spec import ENTROPY, SCOPES
from gmt.training.settings import PRECISIONS, SCHEDULES

FILES = [(group, name) for group in config_files.groups() for name in config_files.names(group)]
OVERVIEWS = [*config_files.groups(), *sorted(set(SETTINGS_CLASSES) - {"sweep"}), "seed", "parents", "hydra.launcher"]
TOPICS = [
    *OVERVIEWS,
    "method=gmt",
    "cluster=slurm",
    "method.mask_ratio",
    "method.rank",
    "train.schedule",
    "study.margin",
]


@dataclass(frozen=True, kw_only=True)
class Example:
    """Settings of all sorts.

    Args:
        share: a fraction. More on it.
        one, other: two settings with one text
            of two lines.
        end: which end, `largest` or
            `smallest`.
        grain: what is kept. Whole tensors count too.
        kept: see gmt.masking.MaskSpec.

    Raises:
        UserError: a value is wrong.
    """

    share: float
    one: int = 1
    other: bool = settings.neutral(False)
    end: str = "largest"
    grain: str = "entry"
    kept: object = None

    def __post_init__(self) -> None:
        settings.number("example.share", self.share, "must lie in [0, 1)", low=0, high=1)
        settings.one_of("example.end", self.end, ("largest", "smallest"))
        settings.one_of("example.grain", self.grain, ("entry", "row"))


VALUES = {"_target_": f"{__name__}.Example", "share": 0.5, "end": "largest"}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr("gmt.commands.explain.setting.class_of", lambda *_: Example)
    return VALUES


def test_a_setting_has_the_meaning_of_its_docstring_and_the_rule_of_its_check(example: dict[str, object]) -> None:
    found = {setting.key.removeprefix("example."): setting for setting in settings_in("example", example)}
    assert list(found) == ["share", "end", "one", "other", "grain", "kept"]  # those of the config come first
    assert found["share"].in_full == "a fraction. More on it. It must lie in [0, 1)."
    assert found["share"].in_short == "a fraction."
    assert found["one"].about == found["other"].about == "two settings with one text of two lines."
    assert found["end"].choices == ["largest", "smallest"]
    assert found["end"].in_full == "which end, `largest` or `smallest`."
    assert found["grain"].in_short == "what is kept. One of entry, row."
    assert found["share"].assignment == "example.share=0.5"
    assert found["grain"].assignment == "+example.grain=entry"
    assert found["other"].assignment == "+example.other=false"


def test_the_docstring_ends_where_another_section_begins() -> None:
    assert list(arguments_of(Example.__doc__)) == ["share", "one", "other", "end", "grain", "kept"]
    assert arguments_of(None) == arguments_of("No arguments.") == {}


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        (
            "LoRA (Hu et al., arXiv 2106.09685): by peft. Departures: none.",
            "LoRA (Hu et al., arXiv 2106.09685): by peft.",
        ),
        ("A rank, e.g. HumanEval or 2.5 others. Next.", "A rank, e.g. HumanEval or 2.5 others."),
        ("Slurm. `gmt submit` hands over.", "Slurm."),
        ("without an end", "without an end"),
    ],
)
def test_first_sentences(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_every_file_says_at_its_top_what_it_is() -> None:
    assert not [each for each in FILES if not first_sentence(config_files.about(*each))]


def test_conf_says_what_each_group_and_each_single_setting_is_for() -> None:
    assert all(choice.about for choice in config_files.chosen().values())
    own = config_files.own_settings()
    assert {key for key in own if key not in SETTINGS_CLASSES} == {
        key for key, text in config_files.single_settings().items() if text
    }


@pytest.mark.heavy
def test_every_setting_has_a_meaning() -> None:
    without_meaning = []
    for group, name in FILES:
        settings_class: Any = settings_class_of(group, config_files.values(group, name))
        if settings_class is None:
            continue
        explained = meanings(settings_class)
        without_meaning += [
            f"{group}={name}: {field.name}" for field in fields(settings_class) if not explained.get(field.name)
        ]
    assert not without_meaning


def test_choices_are_those_that_the_class_allows() -> None:
    found = {each.key: each for each in settings_in("method", config_files.values("method", "gmt"))}
    assert found["method.scope"].choices == [*SCOPES, ENTROPY]
    found = {each.key: each for each in settings_in("train", config_files.values("train", "quickstart"))}
    assert found["train.schedule"].choices == list(SCHEDULES)
    assert found["train.precision"].choices == list(PRECISIONS)
    assert found["train.packing"].choices == ["true", "false"]


def test_the_page_of_run_names_every_choice_and_every_setting() -> None:
    page = run_page(["method=lora", "tracking=none"], None, resolve=False)
    words = set(re.findall(r"[\w.+=:-]+", page))
    assert all(set(config_files.names(group)) <= words for group in config_files.groups())
    assert {"method=lora", "tracking=none", "selection=null", "method.rank=8", "record.root=gmt-results"} <= words
    assert "method.mask_ratio" not in page.partition("Examples:")[0]
    own = config_files.own_settings()
    assert {f"{group}.{key}" for group in own if group in SETTINGS_CLASSES for key in own[group]} <= {
        w.partition("=")[0] for w in words
    }
    assert max(map(len, page.splitlines())) <= 100


def test_the_page_of_run_resolves_on_request() -> None:
    assert "tracking.uri=sqlite:///${record.root}/mlflow.db" in run_page([], None, resolve=False)
    assert "tracking.uri=sqlite:///gmt-results/mlflow.db" in run_page([], None, resolve=True)


def test_the_page_of_sweep_is_its_own() -> None:
    page = sweep_page(["study=quickstart"], None)
    assert set(config_files.names("study")) <= set(re.findall(r"\w+", page))
    for word in (
        "KEY=A,B",
        "KEY=range(1,6)",
        "Ctrl-C",
        "study.name=quickstart",
        "+study.margin=0.02",
        "resources.gpus",
    ):
        assert word in page
    assert max(map(len, page.splitlines())) <= 100


@pytest.mark.parametrize("topic", TOPICS)
def test_help_explains(topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["help", topic]) == 0
    text = capsys.readouterr().out
    assert topic in text
    assert len(text.split()) > 3
    assert max(map(len, text.splitlines())) <= 100
    assert not re.search(r"\bNone\b", text)


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for columns in (20, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert run_command(["help", "method.scope"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= max(columns, 60)


@pytest.mark.parametrize(
    ("topic", "sentence"),
    [
        ("metod", "there is no help on 'metod'; did you mean 'method'?"),
        ("method=gtm", "there is no method 'gtm'; did you mean 'gmt'?"),
        ("metod=gmt", "there is no config group 'metod'; did you mean 'method'?"),
        ("method.mask_rato", "method has no setting 'mask_rato'; did you mean 'mask_ratio'?"),
        ("hydra.launcher.adress", "hydra.launcher has no setting 'adress'; did you mean 'address'?"),
    ],
)
def test_an_unknown_topic_is_one_sentence(topic: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["help", topic]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")

"""Composing once for each choice of groups equals Hydra's own composition."""

from collections.abc import Iterator

import pytest
from hydra import compose

from gmt.composition import Composer, hydra_on, to_plain
from gmt.errors import UserError

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

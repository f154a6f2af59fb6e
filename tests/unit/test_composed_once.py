"""The compositions that tests remember are those that Hydra would make now."""

from pathlib import Path

from gmt.composition import Composer, hydra_on


def test_a_folder_that_a_test_writes_is_composed_anew(tmp_path: Path) -> None:
    file = tmp_path / "method" / "mine.yaml"
    file.parent.mkdir()
    found = []
    for ratio in (0.25, 0.5):
        file.write_text(f"defaults: [gmt]\nname: mine\nmask_ratio: {ratio}\n")
        with hydra_on(str(tmp_path)):
            found.append(Composer().compose_plain(["method=mine"])["method"]["mask_ratio"])
    assert found == [0.25, 0.5]


def test_a_config_that_was_changed_does_not_change_the_next() -> None:
    with hydra_on(None):
        Composer().compose([]).seed = 9
        assert Composer().compose([]).seed == 1

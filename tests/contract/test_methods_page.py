"""docs/methods.md says what the yamls of conf/method say."""

import shutil
from pathlib import Path

import pytest

from gmt.config_dir import config_dir
from recipes.methods_page import PAGE, SECTIONS, page, read_head

FOLDER = Path(config_dir()) / "method"


def test_the_page_is_what_the_yamls_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(FOLDER), (
        "write docs/methods.md anew: python -m recipes.methods_page"
    )


def test_every_yaml_has_one_row_with_every_cell() -> None:
    rows = [line for line in page(FOLDER).splitlines() if line.startswith("| [")]
    assert sorted(row.split("]")[0].removeprefix("| [") for row in rows) == sorted(
        p.stem for p in FOLDER.glob("*.yaml")
    )
    cells = [row.removeprefix("| ").removesuffix(" |").split(" | ") for row in rows]
    assert all(all(row[:-1]) for row in cells)  # an arm may have no departures
    assert page(FOLDER).count("\n## ") == len(SECTIONS)


def test_the_head_of_a_yaml_is_read_as_written() -> None:
    head = read_head(
        "# Name (Author et al., arXiv 2401.00001): some entries (few) are trained. A default is 3.\n"
        "# Chooses: once. Departures: two of\n# them. And a third.\nname: x\n"
    )
    assert (head.title, head.source) == ("Name", "Author et al., arXiv 2401.00001")
    assert head.trains == "some entries (few) are trained"
    assert head.cells == {"Chooses": "once.", "Departures": "two of them. And a third."}


@pytest.mark.parametrize(
    ("arm", "head", "sentence"),
    [
        (
            "gmt",
            "# gmt: trains entries.",
            r"gmt\.yaml: the head must read `# NAME \(SOURCE\): what it trains\.`, got 'gmt",
        ),
        ("gmt", "# GMT (some paper): trains entries.", r"gmt\.yaml: the source must name .*, got 'some paper'"),
        ("gmt", "", r"gmt\.yaml: the head must read .*, got ''"),
        (
            "hft",
            "# Half (ours): half is trained. Cost: less.",
            r"hft\.yaml: the head must say `Chooses:`, `Memory:`, which",
        ),
    ],
)
def test_a_head_that_lacks_a_fact_is_refused(tmp_path: Path, arm: str, head: str, sentence: str) -> None:
    path = Path(shutil.copy(FOLDER / f"{arm}.yaml", tmp_path))
    settings = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    path.write_text("\n".join([head, *settings]), encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        page(tmp_path)

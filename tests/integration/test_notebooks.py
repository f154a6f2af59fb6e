"""The notebooks run headless on a study, and show what its runs came to."""

from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from gmt.runs.execute import execute
from tests.conftest import CONF, ROOT
from tests.integration.test_prepare import run_of


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study of three runs."""
    folder = tmp_path_factory.mktemp("study")
    for method in (["method=sft"], *(["method=gmt", f"method.mask_ratio={ratio}"] for ratio in (0.5, 0.9))):
        execute(run_of(folder / "gmt-results", *method, "record.log_every=1"))
    return folder


def shown(name: str, folder: Path, **parameters: Any) -> str:
    """All that the cells of a notebook show, as text and HTML."""
    out, given = (
        folder / f"{name}.ipynb",
        {"study": "tiny", "overrides": ["seed=1"], "config_dir": str(CONF), "dirty": True},
    )
    papermill.execute_notebook(
        str(ROOT / "analysis" / f"{name}.ipynb"), str(out), given | parameters, cwd=str(folder), progress_bar=False
    )
    cells = nbformat.read(out, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(
        "".join(output.get("data", {}).get(kind, "")) for output in outputs for kind in ("text/html", "text/markdown")
    ) + "\n".join(output.get("text", "") for output in outputs)


def test_ratio_insensitivity(results: Path) -> None:
    page = shown("ratio_insensitivity", results, second="gmt 0.5")
    assert "Does the machine work?" in page
    assert page.count("<svg") == 2 + 2  # scores; facts, layers
    assert "Exploratory. Is the forgetting of every arm lower than that of sft" in page
    assert "target_after_low" in page  # the part of the runs
    assert "<th>gmt 0.9</th>" in page  # one run beside another


def test_efficiency(results: Path) -> None:
    page = shown("efficiency", results)
    assert page.count("<svg") == 2
    assert "gflops_a_step" in page
    assert "p_within" in page
    assert "No other run of this study was at work" in page

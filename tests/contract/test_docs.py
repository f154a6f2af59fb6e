"""What README and docs show is true: code runs, commands exist, links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gmt.cli import _COMMANDS
from gmt.commands.plan import planned

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.name for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    shown = "\n".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", text)])
    assert set(re.findall(r"(?:^|\s)gmt ([a-z]+)", shown, re.MULTILINE)) <= set(_COMMANDS)
    assert set(re.findall(r"^make ([a-z-]+)", shown, re.MULTILINE)) <= targets


def test_the_masking_guides_code_runs() -> None:
    code = blocks(ROOT / "docs" / "masking.md", "python")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "density=0.2" in done.stdout


def test_the_guides_study_plans(tmp_path: Path) -> None:
    text = blocks(ROOT / "docs" / "studies.md", "yaml")[0]
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "my_study.yaml").write_text(text)
    plan, _ = planned(["study=my_study", f"record.root={tmp_path}"], str(tmp_path))
    assert {run.point.arm for run in plan.runs} == set(yaml.safe_load(text)["arms"])
    assert len(plan.runs) == 15


def test_nothing_names_a_registry_or_a_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = ("/" + "work/", "/" + "opt/pypi", "pypi" + ".org", "files.python" + "hosted")
    for name in listed:
        path = ROOT / name
        if path.suffix not in {".safetensors", ".png"} and path.exists():
            text = path.read_text()
            assert not [word for word in forbidden if word in text], name

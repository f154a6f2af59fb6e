"""What README and docs show is true: code runs, commands exist, links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gmt.commands.parsers import make_parser, sub_parsers
from gmt.composition import Composer, hydra_on
from gmt.runs.build import build
from gmt.runs.prepare import prepare
from gmt.studies.opened import planned
from recipes.doc_links import anchors, is_of_the_repository, links, resolved

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.name for page in PAGES]
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in links(page.read_text()):
        if is_of_the_repository(target) or target.startswith("#"):
            path, anchor = resolved(page.relative_to(ROOT).as_posix(), target)
            is_broken = not (ROOT / path).exists() or (anchor and anchor not in anchors((ROOT / path).read_text()))
            broken += [target] if is_broken else []
    assert not broken


def test_the_site_leads_to_each_page_once() -> None:
    nav = re.findall(r"^      - .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    made = {"index.md", "all_pages.md", "changelog.md", "commands.md", "api.md"}  # see recipes/docs_site.py
    pages = {page.name for page in PAGES} - {"README.md"}
    assert sorted(nav) == sorted([*made, *pages, "source/benchmarks/README.md"])


def test_headings_have_the_anchors_of_github_and_of_the_site() -> None:
    text = "# One: *two*\n## What `gmt check` tries\n```python\n# no heading\n```\n### train.optimizer\n[a](b.md#c)\n"
    assert anchors(text) == {"one-two", "what-gmt-check-tries", "trainoptimizer"}
    assert links(text + "```\n[not](this)\n```\n![picture](p.png) [web](https://x.y)") == [
        "b.md#c",
        "p.png",
        "https://x.y",
    ]
    assert resolved("docs/a.md", "../conf/x.yaml") == ("conf/x.yaml", "")
    assert resolved("docs/a.md", "#there") == ("docs/a.md", "there")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_and_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    shown = "\n".join([*blocks(page, "bash"), *re.findall(r"`([^`\n]+)`", text)])
    assert set(re.findall(r"(?:^|\s)gmt ([a-z]+)", shown, re.MULTILINE)) <= set(sub_parsers(make_parser()))
    assert set(re.findall(r"^make ([a-z-]+)", shown, re.MULTILINE)) <= targets


GUIDE = blocks(ROOT / "docs" / "masking.md", "python")


def test_the_masking_guides_first_code_runs_by_itself() -> None:
    done = subprocess.run([sys.executable, "-c", GUIDE[0]], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "density=0.2" in done.stdout


def test_the_memory_guides_code_runs_by_itself() -> None:
    (code,) = blocks(ROOT / "docs" / "memory.md", "python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "step=3" in done.stdout


@pytest.mark.parametrize("code", GUIDE[1:], ids=["accelerate", "trainer", "trl", "lightning", "scaler"])
def test_the_masking_guides_loops_run(code: str, tmp_path: Path) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gmt.masking import MaskSpec, attach

    nano = ROOT / "gmt" / "models" / "shipped" / "nano"
    model = AutoModelForCausalLM.from_pretrained(nano)
    tokens = torch.randint(5, 20, (4, 2, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    spec = MaskSpec(mask_ratio=0.8)
    names = {
        "torch": torch, "attach": attach, "spec": spec, "model": model, "optimizer": optimizer, "folder": str(tmp_path),
        "loader": torch.utils.data.DataLoader(tokens, batch_size=None),
        "tokenizer": AutoTokenizer.from_pretrained(nano),
        "examples": [{"input_ids": row, "labels": row} for row in tokens[0]],
        "prompts_and_completions": Dataset.from_list([{"prompt": "1 + 1 =", "completion": " 2"}] * 4),
    }  # fmt: skip
    if "attach(" not in code:  # what is shown between is a loop around a mask that is there already
        names["mask"] = attach(model, optimizer, spec)
    exec(code, names)
    mask = names["mask"] if "mask" in names else names["trainer"].lightning_module.mask
    facts = mask.facts()
    assert facts.step >= 2
    assert facts.density == pytest.approx(0.2, abs=0.01)


EXPORTING = blocks(ROOT / "docs" / "exporting.md", "python")


def test_the_exporting_guides_first_code_runs_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXPORTING[0]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"print\(.*\)  # (.*)", EXPORTING[0])
    assert done.stdout.splitlines() == shown == ["1", "2 0"]


def test_the_guides_study_plans(tmp_path: Path) -> None:
    text = blocks(ROOT / "docs" / "studies.md", "yaml")[0]
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "my_study.yaml").write_text(text)
    plan, _ = planned(["study=my_study", f"record.root={tmp_path}"], str(tmp_path))
    assert {run.point.arm for run in plan.runs} == set(yaml.safe_load(text)["arms"])
    assert len(plan.runs) == 15


@pytest.mark.parametrize("how", ["yaml", "bash"])
def test_the_guides_own_data_is_read_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    page = ROOT / "docs" / "real_models.md"
    (text,) = blocks(page, "yaml")
    (command,) = [line for block in blocks(page, "bash") for line in block.splitlines() if "task=dataset" in line]
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine.yaml").write_text(text)
    names = ("question", "answer") if how == "yaml" else ("prompt", "completion")
    for file, rows in (("train.jsonl", 32), ("test.jsonl", 2)):
        lines = [json.dumps(dict(zip(names, (f"{i} + {rows}", str(i + rows)), strict=True))) for i in range(rows)]
        (tmp_path / file).write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    overrides = ["task=mine", "train=sft"] if how == "yaml" else shlex.split(command)[2:]
    with hydra_on(str(tmp_path)):
        prepared = prepare(build(Composer().compose_plain([*overrides, f"record.root={tmp_path}"])))
    assert prepared.num_examples == 32
    assert {part: set(suites) for part, suites in prepared.suites.items()} == {
        "target": {"held_out"},
        "source": {"sums"},
    }


def test_nothing_names_a_registry_or_a_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    forbidden = ("/" + "work/", "/" + "opt/pypi", "pypi" + ".org", "files.python" + "hosted")
    for name in listed:
        path = ROOT / name
        if path.suffix not in {".safetensors", ".png"} and path.exists():
            text = path.read_text()
            assert not [word for word in forbidden if word in text], name

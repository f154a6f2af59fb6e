"""The wheel works away from the checkout and brings only what is its own."""

import ast
import itertools
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    return next(folder.glob("*.whl"))


def test_it_holds_conf_and_the_model_and_no_foreign_top_level_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "gmt",
        "gmt_launchers",
        "gmt_analysis",
        "hydra_plugins",
    }
    assert {
        "gmt/conf/config.yaml",
        "gmt/models/shipped/nano/model.safetensors",
        "gmt/masking/kernels.c",
        "gmt/masking/kernels.h",
        "gmt/masking/select.c",
        "gmt/py.typed",
    } <= set(names)
    assert "gmt_analysis/report.html.j2" in names
    assert "hydra_plugins/__init__.py" not in names  # it is a namespace that other projects share


def test_it_plans_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    # A fresh environment for our own packages, over this one's libraries: installing torch again takes minutes.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    check = "import gmt; print(gmt.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), *libraries])
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120, "env": environment}
    where = subprocess.run([python, "-c", check], check=True, **run)  # type: ignore[call-overload]
    assert str(site) in where.stdout
    planned = subprocess.run([python, "-m", "gmt", "plan", "study=quickstart"], check=False, **run)  # type: ignore[call-overload]
    assert planned.returncode == 0, planned.stderr
    assert "24 to do" in planned.stdout


def test_every_package_that_the_code_imports_is_a_requirement_of_ours() -> None:
    """A package that another one happens to bring may come in any version, or not at all."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "dev"}
    wanted = itertools.chain(project["dependencies"], *extras.values())
    declared = {canonicalize_name(Requirement(text).name) for text in wanted}
    files = [path for folder in ("gmt", "launchers", "analysis") for path in (ROOT / folder).rglob("*.py")]
    packages = {package for path in files for package in imported_by(path)}
    ours = {"gmt", "gmt_launchers", "gmt_analysis", "hydra_plugins"}
    distributions = packages_distributions()
    undeclared = {
        package
        for package in packages - ours - sys.stdlib_module_names
        if not declared & {canonicalize_name(name) for name in distributions.get(package, [package])}
    }
    assert {"torch", "peft", "ray"} <= packages
    assert undeclared == set()


def imported_by(path: Path) -> set[str]:
    """Return the top packages that a file imports, inside of functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return {name.split(".")[0] for name in names}

"""No file is so long that it could have two purposes."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("gmt", "launchers", "analysis", "recipes", "benchmarks", "tests")
MOST_LINES = 350


def test_no_file_is_long() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lines) > 400
    assert {path: number for path, number in lines.items() if number > MOST_LINES} == {}

"""Takes the screenshots of README.md and docs/dashboard.md: `python -m recipes.screenshots study=NAME FOLDER`.

Needs Chromium (`apt install chromium`), and a study of this folder that `gmt report` has written.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path

from mlflow.tracking import MlflowClient
from PIL import Image

from gmt.studies.opened import planned
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings

WIDTH, PANEL = 1250, 440  # pixels of MLflow's page, and of its assistant's panel
REPORT_WIDTH, REPORT_HEIGHT = 1160, 1700  # pixels
RENDER_MS = 120_000  # of the page's own time


def shoot(address: str, out: Path, height: int, width: int = WIDTH, panel: int = PANEL) -> None:
    """Write a page without the panel at its right as a PNG, as a new user's browser shows it.

    A page is sometimes taken while its charts still load, so of two pictures the one that shows more is kept.
    """
    with tempfile.TemporaryDirectory() as name:
        pictures = [Path(name) / f"{number}.png" for number in range(2)]
        for picture in pictures:
            _take(address, picture, height=height, width=width + panel)
            with Image.open(picture) as opened:
                left = opened.convert("RGB").crop((0, 0, width, height)).quantize(128)
            left.save(picture, optimize=True)
        shutil.copyfile(max(pictures, key=lambda picture: picture.stat().st_size), out)
    print(out)


def _take(address: str, out: Path, *, height: int, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser is not None, "needs Chromium"
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        command += [f"--virtual-time-budget={RENDER_MS}", f"--screenshot={out}", address]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=180)
    assert out.exists(), "Chromium took no picture"


def main(study: str, folder: Path) -> None:
    """Serves the study's dashboard, and takes pictures of its pages and of the report."""
    plan, config = planned([study], None)
    tracking = TrackingSettings(**config["tracking"])
    view, parent = MlflowView(tracking).pages(plan.identity)
    experiment, runs, page = view.split("/")[2], view.partition("?")[0], parent.partition("?")[0]
    client = MlflowClient(tracking.absolute_uri)
    of_gmt = "tags.`gmt.kind` = 'run' AND tags.`gmt.arm` = 'gmt'"
    child = client.search_runs([experiment], of_gmt, max_results=1)[0]
    alike = f"tags.`gmt.task` = '{child.data.tags['gmt.task']}' AND tags.`gmt.seed` = '{child.data.tags['gmt.seed']}'"
    # by a metric, and not by time, MLflow shows runs without the sweeps that they are below
    alike = urllib.parse.urlencode(
        {"searchFilter": alike, "orderByKey": "metrics.`result/target_after`", "orderByAsc": "false"}
    )
    command = [sys.executable, "-m", "gmt", "ui", study]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert ui.stdout is not None
    login = ui.stdout.readline().split()[1].partition("#")[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report = plan.folder / "report" / "index.html"
        shoot(report.resolve().as_uri(), folder / f"{plan.study.name}_report.png", REPORT_HEIGHT, REPORT_WIDTH, panel=0)
        shoot(login + view, folder / "dashboard_view.png", 1000)
        shoot(f"{login}{runs}?{alike}", folder / "dashboard_runs.png", 1000)
        shoot(f"{login}{runs}?{alike}&compareRunsMode=CHART", folder / "dashboard_charts.png", 1400)
        shoot(login + parent, folder / "dashboard_parent.png", 1500)
        shoot(f"{login}{page}/model-metrics", folder / "dashboard_figures.png", 1200)
        shoot(f"{login}{runs}/{child.info.run_id}", folder / "dashboard_run.png", 1500)
        shoot(f"{login}{runs}/{child.info.run_id}/system-metrics", folder / "dashboard_system.png", 1000)
    finally:
        ui.send_signal(signal.SIGINT)
        ui.wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

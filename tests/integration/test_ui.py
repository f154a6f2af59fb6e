"""The dashboard serves on this machine and leaves nothing behind."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def test_it_serves_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gmt", "ui", "--port", str(port)]
    ui = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 90
    page = b""
    while not page and time.monotonic() < deadline:
        try:
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
        except OSError:
            time.sleep(0.3)
    assert b"<title>MLflow</title>" in page
    ui.send_signal(signal.SIGINT)
    output, _ = ui.communicate(timeout=30)
    assert ui.returncode == 0, output
    assert f"dashboard: http://127.0.0.1:{port}" in output
    assert "dashboard stopped" in output
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))

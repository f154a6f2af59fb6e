"""What a fault of the MLflow server costs the training: seconds per optimizer step with it and without, in turns.

One long run is tracked through a relay to a real MLflow server. In windows of the same length the server is well, then
frozen (SIGSTOP), cut off, or answers errors, then recovers, so that what it missed is written too. Compared is the
wall-clock time of a step, all that goes on beside it included, and the CPU time of the sweep's driver, which is all
that could take anything from the training: its worker knows no server. A fault and the recovery from it must cost at
most 2 %.
"""

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from publishing import publish, script_parser, table
from scipy.stats import bootstrap

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.mlflow_server: a server that can be killed and frozen
from tests.mlflow_server import Server
from tests.processes import free_ports, wait_for

LIMIT = 1.02
WELL, FROZEN, CUT_OFF, ERRORS = "well", "frozen", "cut off", "answers errors"
FAULTS = (FROZEN, CUT_OFF, ERRORS)
LOG_EVERY = 5
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Relay:
    """A port before the server's, which passes everything on, nothing, or answers errors itself."""

    def __init__(self, server: Server):
        (self.port,) = free_ports(1)
        self.uri, self._server, self._state = f"http://127.0.0.1:{self.port}", server, WELL
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()

    def become(self, state: str) -> None:
        """The server's state as a client sees it from now on."""
        if FROZEN in (state, self._state):
            self._server.signal(signal.SIGSTOP if state == FROZEN else signal.SIGCONT)
        self._state = state
        if state in (CUT_OFF, ERRORS):
            self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in self._open])

    def _serve(self) -> None:
        self._loop.create_task(asyncio.start_server(self._answer, "127.0.0.1", self.port))
        self._loop.run_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state == CUT_OFF:
            writer.close()
            return
        if self._state == ERRORS:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ERROR)
            await writer.drain()
            writer.close()
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._open |= {writer, to_server}
        await asyncio.gather(self._pass_on(reader, to_server), self._pass_on(from_server, writer))
        self._open -= {writer, to_server}

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(2**16):
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


@dataclass(frozen=True)
class Window:
    """A time in which the server was in one state, as seconds since the epoch, and CPU seconds of the driver in it."""

    name: str
    begin: float
    end: float
    driver_s: float


def train(folder: Path, cycles: int, window_s: float) -> tuple[list[Window], Path]:
    """The windows, in order, and the metrics of the run."""
    server = Server(folder)
    server.start()
    relay = Relay(server)
    command = [sys.executable, "-m", "gmt", "run", "-m", "method=gmt", "seed=1"]
    command += ["train.num_epochs=10000", "record.checkpoint_every=100000", f"record.log_every={LOG_EVERY}"]
    command += ["tracking=server", f"tracking.uri={relay.uri}"]
    sweep = subprocess.Popen(command, cwd=folder)
    try:
        (metrics,) = wait_for(lambda: [*folder.glob("gmt-results/runs/*/metrics.jsonl")], 120)
        time.sleep(window_s)  # the first steps are slow
        windows = []
        order = [
            (name, state)
            for fault in FAULTS
            for name, state in ((WELL, WELL), (fault, fault), (f"after {fault}", WELL))
        ]
        for name, state in [*cycles * order, (WELL, WELL)]:
            relay.become(state)
            begin, before_s = time.time(), _cpu_s(sweep.pid)
            time.sleep(window_s)
            windows.append(Window(name, begin, time.time(), _cpu_s(sweep.pid) - before_s))
            assert sweep.poll() is None, "the sweep ended by itself"
        time.sleep(5)  # for what is logged after the last window
    finally:
        relay.become(WELL)
        sweep.send_signal(signal.SIGINT)
        sweep.wait()
        server.kill()
    return windows, metrics


def _cpu_s(process: int) -> float:
    times = psutil.Process(process).cpu_times()
    return float(times.user + times.system)


def step_times(windows: list[Window], metrics: Path) -> list[float]:
    """Seconds per step in each window, in order: its length over the steps done in it, standstills included."""
    rows = [row for row in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()) if "train/loss" in row]
    times, steps = [row["time"] for row in rows], [row["step"] for row in rows]
    assert times[-1] > windows[-1].end, "the training stopped before the last window was over"
    done = (np.interp([window.begin, window.end], times, steps) for window in windows)
    return [(each.end - each.begin) / float(np.diff(num)[0]) for each, num in zip(windows, done, strict=True)]


def _interval(ratios: list[float]) -> str:
    if len(ratios) < 3:
        return ""
    low, high = bootstrap((ratios,), statistics.fmean, vectorized=False, rng=0).confidence_interval
    return f" ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measures and reports."""
    parser = script_parser(__doc__)
    parser.add_argument("--cycles", type=int, default=2, help="of nine windows each (default: 2)")
    parser.add_argument("--window", type=float, default=60.0, help="seconds of a window (default: 60)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        windows, metrics = train(Path(scratch), args.cycles, args.window)
        steps_s = step_times(windows, metrics)
    numbers = np.arange(len(windows))
    well = [number for number in numbers if windows[number].name == WELL]
    expected_s = np.interp(numbers, well, [steps_s[number] for number in well])  # the machine's own speed drifts
    shares, ratios = defaultdict(list), defaultdict(list)
    for number, window in enumerate(windows):
        shares[window.name].append(100 * window.driver_s / (window.end - window.begin))
        if window.name != WELL:
            ratios[window.name].append(steps_s[number] / expected_s[number])
    ratios["all of these"] = [ratio for own in list(ratios.values()) for ratio in own]
    shares["all of these"] = [share for name, own in list(shares.items()) if name != WELL for share in own]
    rows = [[WELL, str(len(shares[WELL])), f"{statistics.fmean(shares[WELL]):.1f}", "1"]]
    for name, own in ratios.items():
        driver = f"{statistics.fmean(shares[name]):.1f}"
        rows.append([name, str(len(own)), driver, f"{statistics.fmean(own):.3f}{_interval(own)}"])
    well_s = statistics.fmean(steps_s[number] for number in well)
    head = ["the server", "windows", "driver's CPU, % of a core", "step, times that of the well windows around it"]
    note = f"A step while it was well: {1000 * well_s:.0f} ms. Windows of {args.window:g} s, with 95 % bootstrap "
    publish(
        (__doc__ or "").strip().split("\n")[0],
        [table(head, rows), note + f"intervals. Limit: {LIMIT} times."],
        args.out,
    )


if __name__ == "__main__":
    main()

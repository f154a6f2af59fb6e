"""Slurm with two nodes on this machine: munged, slurmctld and two slurmd of the tests' own, in a folder of theirs."""

import getpass
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import free_ports, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("n1", "n2")
_SETTINGS = """\
ClusterName=gmt
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=30
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """Starts Slurm; gives the path of slurm.conf, which goes into SLURM_CONF."""
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    ctld, n1, n2 = free_ports(3)
    conf.write_text(_SETTINGS.format(folder=folder, user=getpass.getuser(), ctld=ctld, n1=n1, n2=n2))
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_daemon(folder, conf, "munged", "--foreground", "--force", f"--key-file={key}", *munge))
        wait_for((folder / "munge.socket").exists, 30)
        daemons.append(_daemon(folder, conf, "slurmctld", "-D", "-i"))
        daemons += [_daemon(folder, conf, "slurmd", "-D", "-N", node) for node in NODES]
        wait_for(lambda: _idle(conf) == len(NODES), 30)
        yield conf
    finally:
        _cancel_all(conf)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            daemon.wait(30)


def _daemon(folder: Path, conf: Path, *command: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": _search_path()}
    with (folder / f"{'-'.join((command[0], command[-1].strip('-')))[:20].replace('/', '_')}.log").open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _cancel_all(conf: Path) -> None:
    """Ends what a failed test left running; its processes would outlive slurmd."""
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    quiet = {"env": environment, "timeout": 30, "check": False, "capture_output": True}
    subprocess.run(["scancel", "--me", "--full"], **quiet)  # type: ignore[call-overload]
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and subprocess.run(["squeue", "--noheader"], **quiet).stdout:  # type: ignore[call-overload]
        time.sleep(0.5)


def _idle(conf: Path) -> int:
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    command = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return sum(line.split()[1] == "idle" for line in done.stdout.splitlines())


def _search_path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

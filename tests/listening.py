"""Where the processes of a sweep listen."""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.processes import command_of, name_of

PRIVATE = "the private folder"
_RAYS = {"ray::RuntimeEnv": "runtime_env_agent", "ray::DashboardA": "dashboard_agent", "ray::": "worker"}


@dataclass(frozen=True, kw_only=True)
class Listening:
    """A socket.

    Args:
        process: as docs/security.md calls it.
        where: the address, or PRIVATE for a socket of the file system.
        port: of TCP.
    """

    process: str
    where: str
    port: int | None


def driver_in(folder: Path) -> psutil.Process | None:
    """The process of the sweep that was started in a folder, once it has started Ray."""
    for process in psutil.process_iter(["name"]):
        try:
            parent = process.parent() if process.info["name"] == "gcs_server" else None
            if parent is not None and parent.cwd() == str(folder):
                return parent
        except psutil.Error:  # it has ended
            continue
    return None


def family_of(driver: psutil.Process) -> list[psutil.Process]:
    """The process of a sweep, which comes first, and all that it started."""
    return [driver, *driver.children(recursive=True)]


def private_folder(family: Sequence[psutil.Process]) -> Path:
    """The folder of the sweep's Ray, from the arguments of Ray's processes."""
    (raylet,) = (process for process in family if name_of(process) == "raylet")
    return Path(re.findall(r"--session-dir=(/\S+?)/ray/session_", " ".join(raylet.cmdline()))[0])


def listening(family: Sequence[psutil.Process], private: Path) -> set[Listening]:
    """Return the sockets of a sweep to which others may connect."""
    names = {process.pid: _name(process) for process in family} | {family[0].pid: "driver"}
    found = set()
    for each in psutil.net_connections("all"):
        if each.pid not in names:
            continue
        if each.family == socket.AF_UNIX and str(each.laddr).startswith(f"{private}/"):
            found.add(Listening(process=names[each.pid], where=PRIVATE, port=None))
        elif each.status == psutil.CONN_LISTEN:
            where = each.laddr.ip.removeprefix("::ffff:")
            found.add(Listening(process=names[each.pid], where=where, port=each.laddr.port))
    return found


def _name(process: psutil.Process) -> str:
    name, words = name_of(process), command_of(process).split()
    if not name:  # it has ended
        return "worker"
    for start, meaning in _RAYS.items():
        if name.startswith(start):
            return meaning
    scripts = [Path(word).stem for word in words if word.endswith(".py")]  # Ray's, beside the driver
    return scripts[0] if name.startswith("python") and scripts else name

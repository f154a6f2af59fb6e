"""`hydra.launcher.address=auto` joins only what this user runs."""

import re
import subprocess
from collections.abc import Callable, Iterator

import psutil
import pytest
from gmt_launchers import own_cluster
from gmt_launchers.cluster import connected
from gmt_launchers.own_cluster import own_address
from ray._private import services

from gmt.errors import UserError
from tests.processes import wait_for
from tests.second_user import NOBODY, as_root

Node = Callable[..., None]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Starts a process that looks like a node of Ray; no other process of this machine is seen."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    started: list[subprocess.Popen[bytes]] = []

    def start(address: str, user: int | None = None) -> None:
        command = ["/opt/ray/raylet/raylet", "-c", "read x", "sh", f"--gcs-address={address}"]
        process = subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE, user=user, cwd="/")
        started.append(process)
        wait_for(lambda: psutil.Process(process.pid).cmdline() == command, 10)

    def seen(names: list[str]) -> Iterator[psutil.Process]:
        own = {process.pid for process in started}
        return (process for process in psutil.Process().children() if process.pid in own and _noted(process, names))

    monkeypatch.setattr(own_cluster.psutil, "process_iter", seen)
    yield start
    for process in started:
        process.kill()
        process.communicate()


def _noted(process: psutil.Process, names: list[str]) -> bool:
    process.info = process.as_dict(names)
    return True


def refused() -> str:
    with pytest.raises(UserError) as caught:
        own_address()
    return str(caught.value)


def test_without_a_ray_a_sentence_says_so(node: Node) -> None:
    assert refused() == "hydra.launcher.address=auto must find a Ray of yours on this machine, got none"


@as_root
def test_the_ray_of_this_user_is_found_among_those_of_others(node: Node) -> None:
    node("10.0.0.1:1", NOBODY)
    assert refused() == (
        "hydra.launcher.address=auto must find a Ray of yours on this machine, got only 10.0.0.1:1 of user "
        f"{NOBODY}; name its HOST:PORT if you trust that user"
    )
    node("10.0.0.2:2")
    node("10.0.0.2:2", NOBODY)  # who only says so
    assert own_address() == "10.0.0.2:2"


@as_root
def test_what_ray_says_in_a_file_that_all_can_write_is_not_believed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node("10.0.0.1:1", NOBODY)
    node("10.0.0.2:2")
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: "10.0.0.1:1")
    assert own_address() == "10.0.0.2:2"


@as_root
def test_an_address_in_the_environment_is_not_another_users_node_here(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node("10.0.0.1:1", NOBODY)
    node("10.0.0.2:2")
    for address, holds in {"10.0.0.1:1": False, "10.0.0.2:2": True, "10.0.0.3:3": True}.items():
        monkeypatch.setenv("RAY_ADDRESS", address)
        if holds:
            assert own_address() == address
        else:
            assert f"got only {address} of user {NOBODY}" in refused()


def test_of_several_the_last_started_is_taken_or_one_must_be_named(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node("10.0.0.1:1")
    node("10.0.0.2:2")
    assert (
        refused() == "hydra.launcher.address=auto must find one Ray of yours here, got 10.0.0.1:1, 10.0.0.2:2: name one"
    )
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: "10.0.0.2:2")
    assert own_address() == "10.0.0.2:2"


@pytest.mark.parametrize("named", ["auto", "local", "ray://127.0.0.1:1"])
def test_an_address_in_the_environment_that_is_none(node: Node, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", named)
    assert refused() == f"RAY_ADDRESS must be HOST:PORT for hydra.launcher.address=auto, got {named!r}"


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "http://127.0.0.1:1"])
def test_an_address_with_a_scheme_is_refused(address: str) -> None:
    sentence = f"hydra.launcher.address must be null, auto or HOST:PORT, without a scheme, got {address!r}: "
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"), connected(address, None):
        pass


def test_processes_are_found_as_ray_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag by which Ray 2.60 itself finds the clusters of a machine."""
    flags: list[str] = []
    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: flags.append(flag) or set())
    services._cached_find_gcs_addresses.cache_clear()
    services.find_gcs_addresses()
    assert [f"{flag}=" for flag in flags] == [own_cluster._FLAG]

"""Finds the cluster for `hydra.launcher.address=auto`: the one of this user of which this machine is a node."""

import os
from collections import defaultdict

import psutil

from gmt.errors import UserError
from gmt_launchers.ray_internals import is_node, latest_started

_FLAG = "--gcs-address="


def own_address() -> str:
    """Return the address of the cluster that RAY_ADDRESS names, or else of the cluster whose node this user runs here.

    Ray itself would join the cluster of any user: the one in a file that all users can write, or that of any process
    that it finds. The owner of a cluster could run code here, since results are unpickled.

    Raises:
        UserError: RAY_ADDRESS is not an address, or this user runs no node here, or nodes of several clusters.
    """
    users, named, uid = _users_of_clusters(), os.environ.get("RAY_ADDRESS"), os.getuid()
    if named and (":" not in named or "://" in named):
        raise UserError(f"RAY_ADDRESS must be HOST:PORT for hydra.launcher.address=auto, got {named!r}")
    if named and uid in users.get(named, {uid}):  # of this user, or on another machine, whose processes can't be seen
        return named
    candidates = {named: users[named]} if named else users
    mine = sorted(address for address, uids in candidates.items() if uid in uids)
    if len(mine) > 1 and (latest := latest_started()) in mine:  # that of the last `ray start`
        return str(latest)
    if len(mine) > 1:
        raise UserError(f"hydra.launcher.address=auto must find one Ray of yours here, got {', '.join(mine)}: name one")
    if mine:
        return mine[0]
    others = ", ".join(f"{address} of user {min(uids)}" for address, uids in sorted(candidates.items()))
    raise UserError(
        "hydra.launcher.address=auto must find a Ray of yours on this machine, got "
        + (f"only {others}; name its HOST:PORT if you trust that user" if others else "none")
    )


def _users_of_clusters() -> dict[str, set[int]]:
    """Return the ids of the users who run nodes of each cluster on this machine, by the cluster's address."""
    users = defaultdict(set)
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"], process.info["uids"]
        if uids is not None and is_node(words):
            addresses = [word.removeprefix(_FLAG) for word in " ".join(words).split() if word.startswith(_FLAG)]
            for address in addresses:
                users[address].add(uids.real)
    return dict(users)

"""`hydra.launcher.address=auto`: the cluster whose node this machine is, if it is this user's."""

import os
from collections import defaultdict

import psutil

from gmt.errors import UserError
from gmt_launchers.ray_internals import is_node, latest_started

_FLAG = "--gcs-address="


def own_address() -> str:
    """Return the address of the cluster that RAY_ADDRESS names, or else of the one whose node this user runs here.

    Ray itself would join a node of any user: the one that a file names which all users can write, or any process
    that it finds. Whoever runs a cluster also runs code here, since results are unpickled.

    Raises:
        UserError: RAY_ADDRESS is no address, or this user runs no node here, or several of different clusters.
    """
    users, named, me = _users_of_clusters(), os.environ.get("RAY_ADDRESS"), os.getuid()
    if named and (":" not in named or "://" in named):
        raise UserError(f"RAY_ADDRESS must be HOST:PORT for hydra.launcher.address=auto, got {named!r}")
    if named and me in users.get(named, {me}):  # this user's, or elsewhere, where nobody can be asked
        return named
    found = {named: users[named]} if named else users
    own = sorted(address for address, uids in found.items() if me in uids)
    if len(own) > 1 and (latest := latest_started()) in own:  # that of the last `ray start`
        return str(latest)
    if len(own) > 1:
        raise UserError(f"hydra.launcher.address=auto must find one Ray of yours here, got {', '.join(own)}: name one")
    if own:
        return own[0]
    others = ", ".join(f"{address} of user {min(uids)}" for address, uids in sorted(found.items()))
    raise UserError(
        "hydra.launcher.address=auto must find a Ray of yours on this machine, got "
        + (f"only {others}; name its HOST:PORT if you trust that user" if others else "none")
    )


def _users_of_clusters() -> dict[str, set[int]]:
    """The users of each cluster's nodes on this machine, by the cluster's address."""
    users = defaultdict(set)
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"], process.info["uids"]
        if uids is not None and is_node(words):
            addresses = [word.removeprefix(_FLAG) for word in " ".join(words).split() if word.startswith(_FLAG)]
            for address in addresses:
                users[address].add(uids.real)
    return dict(users)

"""`gmt new`: writes the lines from which a plug-in begins, and says what comes next."""

import os
from pathlib import Path

from gmt.starts.start import start
from gmt.terminal import say


def new(kind: str, name: str, config_dir: str | None) -> None:
    """Writes the files into a folder and prints the commands that come next.

    Args:
        kind: of the plug-in, e.g. `method`.
        name: in configs.
        config_dir: a config folder of the user's own; None for the current folder.

    Raises:
        UserError: a name or folder that can't be, or a file that is there.
    """
    started = start(kind, name, Path(os.path.expanduser(config_dir or ".")))
    say("written:")
    for path in started.files:
        say(f"  {path}")
    say("next:")
    for command in started.commands:
        say(f"  {command}")

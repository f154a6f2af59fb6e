"""`gmt new`: writes the first files of a plug-in, and prints the commands that come next."""

import os
from pathlib import Path

from gmt.starts.start import write_first_files
from gmt.terminal import say


def new(kind: str, name: str, config_dir: str | None) -> None:
    """Write the files into a folder, and print the commands that come next.

    Args:
        kind: the kind of the plug-in, e.g. `method`.
        name: the name of the plug-in in configs.
        config_dir: a config folder of the user's own; None for the current folder.

    Raises:
        UserError: the kind or the name is wrong, or a file exists already.
    """
    written = write_first_files(kind, name, Path(os.path.expanduser(config_dir or ".")))
    say("written:")
    for path in written.files:
        say(f"  {path}")
    say("next:")
    for command in written.commands:
        say(f"  {command}")

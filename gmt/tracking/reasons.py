"""The reason of a store's error, in one line without passwords. Imports no library."""

import re
from textwrap import shorten

from gmt.credentials import without_user

_DATABASE_MESSAGE = re.compile(r"\([\w.]+Error\) ")
_CONNECTION_CAUSE = re.compile(r"\(Caused by (.+)\)$")


def reason(error: Exception) -> str:
    """Return the message of a database or a connection in an error, or its first line, without passwords."""
    lines = [without_user(line) for line in str(error).strip().split("\n")]
    line = next((line for line in lines if _DATABASE_MESSAGE.match(line)), lines[0])
    cause = _CONNECTION_CAUSE.search(line)
    return shorten(cause[1] if cause else line, 300, placeholder=" …")

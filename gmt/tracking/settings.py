"""The settings of tracking. Imports no MLflow, so that planning can check them."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gmt import settings
from gmt.credentials import without_user
from gmt.errors import UserError

SQLITE = "sqlite:///"
DATABASES = (SQLITE, "postgresql", "mysql")
_IN_ADDRESSES = re.compile(r"(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*")  # RFC 3986's userinfo, and letters of Latin-1
_SCHEMES = (*DATABASES, "http://", "https://", "databricks")


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow keeps its view of the runs.

    Args:
        uri: the address of a database or server; null tracks nothing.
        artifacts: folder of the artifacts of a new experiment; null lets the server decide.
        experiment: the MLflow experiment's name.
    """

    uri: str | None
    artifacts: str | None
    experiment: str

    def __post_init__(self) -> None:
        settings.text("tracking.experiment", self.experiment)
        if self.uri is not None:
            settings.text("tracking.uri", self.uri)
            if not self.uri.startswith(_SCHEMES):
                raise UserError(
                    f"tracking.uri must be a database or a server ({', '.join(_SCHEMES)}...), got "
                    f"{without_user(self.uri)!r}; MLflow no longer writes to a plain folder"
                )
            if self.database is None:
                _check_address(self.uri)
        if self.artifacts is not None:
            settings.path("tracking.artifacts", self.artifacts)

    @property
    def database(self) -> Path | None:
        """The file of an sqlite database, or None; what follows `sqlite:///` is a path, letter by letter."""
        if self.uri is None or not self.uri.startswith(SQLITE):
            return None
        return settings.path("tracking.uri", self.uri.removeprefix(SQLITE))

    @property
    def absolute_uri(self) -> str:
        """The URI as SQLAlchemy and MLflow read it: in a path to a database with `%` or `?` they are quoted.

        The folder of a database is made.

        Raises:
            UserError: the folder can't be made.
        """
        assert self.uri is not None
        if self.database is None:
            return self.uri
        try:
            self.database.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"tracking.uri must be in a folder that can be made, got {self.uri}: {error}") from error
        if not {"%", "?"} & set(str(self.database)):
            return f"{SQLITE}{self.database}"
        from sqlalchemy import URL  # planning needs none

        # with its driver named, or MLflow makes a folder of the quoted name
        return URL.create("sqlite+pysqlite", database=str(self.database)).render_as_string()

    @property
    def artifact_location(self) -> str | None:
        """The folder of the artifacts as a URI, or None."""
        return None if self.artifacts is None else settings.path("tracking.artifacts", self.artifacts).as_uri()


def _check_address(uri: str) -> None:
    """Refuses an address whose user and password a library would read otherwise than as all before the last @.

    What it takes for a host's name it prints, and sends to name servers.

    Raises:
        UserError: without the user and password in its sentence.
    """
    user, at, _ = uri.partition("://")[2].rpartition("@")
    is_database = uri.startswith(DATABASES)
    try:
        is_read = "@" not in user and (_is_read_by_sqlalchemy(uri) if is_database else _is_read_by_requests(uri, user))
    except ValueError as error:  # a port or an IPv6 address that is none
        raise UserError(
            f"tracking.uri must be an address, got {without_user(uri)!r}: {without_user(str(error))}"
        ) from error
    if at and not is_read:
        raise UserError(
            "the user and password in tracking.uri must be percent-encoded, e.g. @ as %40 and / as %2F, got some that "
            f"are read as another address: ***@{uri.rpartition('@')[2]}"
        )


def _is_read_by_sqlalchemy(uri: str) -> bool:
    from sqlalchemy import exc, make_url  # planning on other stores needs none

    try:
        return make_url(uri).username is not None
    except exc.ArgumentError as error:
        raise ValueError("it has no ://") from error


def _is_read_by_requests(uri: str, user: str) -> bool:
    """HTTP takes Latin-1 in a user and password, and an address none of a few letters."""
    try:
        unquote(user, errors="strict").encode("latin-1")
    except UnicodeError:
        return False
    if _IN_ADDRESSES.fullmatch(user) is None:
        return False
    urlsplit(uri).port  # noqa: B018  raises if it is no number
    return True

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
_USERINFO = re.compile(r"(?:[\w.~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*")  # RFC 3986's userinfo, and letters of Latin-1
_SCHEMES = (*DATABASES, "http://", "https://", "databricks")


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow stores its view of the runs.

    Args:
        uri: the address of a database or a server; null tracks nothing.
        artifacts: the folder for the artifacts of a new experiment; null lets the server decide.
        experiment: the name of the MLflow experiment.
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
        """The file of an sqlite database, or None; the text after `sqlite:///` is a path without any quoting."""
        if self.uri is None or not self.uri.startswith(SQLITE):
            return None
        return settings.path("tracking.uri", self.uri.removeprefix(SQLITE))

    @property
    def absolute_uri(self) -> str:
        """The URI for SQLAlchemy and MLflow, with `%` and `?` in a database's path quoted.

        Reading it makes the folder of the database.

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

        # without the driver's name, MLflow would make a folder of the quoted name
        return URL.create("sqlite+pysqlite", database=str(self.database)).render_as_string()

    @property
    def artifact_location(self) -> str | None:
        """The folder of the artifacts as a URI, or None."""
        return None if self.artifacts is None else settings.path("tracking.artifacts", self.artifacts).as_uri()


def _check_address(uri: str) -> None:
    """Refuse an address in which a library would not read everything before the last @ as user and password.

    A library prints whatever it takes for a host's name, and sends it to name servers.

    Raises:
        UserError: the address is read differently; the sentence leaves out user and password.
    """
    user, at, _ = uri.partition("://")[2].rpartition("@")
    is_database = uri.startswith(DATABASES)
    try:
        is_read = "@" not in user and (_is_read_by_sqlalchemy(uri) if is_database else _is_read_by_requests(uri, user))
    except ValueError as error:  # an invalid port or IPv6 address
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
    """Return whether an HTTP library reads the user and password as meant: Latin-1, without reserved characters."""
    try:
        unquote(user, errors="strict").encode("latin-1")
    except UnicodeError:
        return False
    if _USERINFO.fullmatch(user) is None:
        return False
    urlsplit(uri).port  # noqa: B018  raises if the port is not a number
    return True

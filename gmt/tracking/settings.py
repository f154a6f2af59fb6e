"""The settings of tracking. Imports no MLflow, so that planning can check them."""

from dataclasses import dataclass
from pathlib import Path

from gmt import settings
from gmt.credentials import without_secrets
from gmt.errors import UserError

SQLITE = "sqlite:///"
DATABASES = (SQLITE, "postgresql", "mysql")
_SCHEMES = (*DATABASES, "http://", "https://", "databricks")


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow keeps its view of the runs.

    Args:
        uri: of a database or server; null tracks nothing.
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
                schemes, shown = ", ".join(_SCHEMES), without_secrets(self.uri)
                raise UserError(
                    f"tracking.uri must be a database or a server ({schemes}...), got {shown!r}; "
                    "MLflow no longer writes to a plain folder"
                )

    @property
    def absolute_uri(self) -> str:
        """The URI; a relative path to a database is taken from the current folder, and its folder made.

        Raises:
            UserError: the folder can't be made.
        """
        assert self.uri is not None
        if not self.uri.startswith(SQLITE):
            return self.uri
        path = Path(self.uri.removeprefix(SQLITE)).expanduser().resolve()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"tracking.uri must be in a folder that can be made, got {self.uri}: {error}") from error
        return f"{SQLITE}{path}"

    @property
    def artifact_location(self) -> str | None:
        """The folder of the artifacts as a URI, or None."""
        return None if self.artifacts is None else Path(self.artifacts).expanduser().resolve().as_uri()

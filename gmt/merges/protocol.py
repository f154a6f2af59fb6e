"""What a merge is to the rest of the program. Imports nothing, so that planning can read it for free."""

from typing import Protocol


class Merge(Protocol):
    """The settings of how weights are made out of those of finished runs: a frozen dataclass that checks its values."""

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

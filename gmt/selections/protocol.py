"""What a selection is to the rest of the program. Imports nothing, so that planning can read it for free."""

from typing import Protocol


class Selection(Protocol):
    """The settings of a choice among the training examples: a frozen dataclass that checks its values."""

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

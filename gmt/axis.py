"""The axis of a study: the setting along which its figures and tests run, and its names."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmt.errors import UserError

DEFAULT = "method.mask_ratio"
# The meaning of a number on the axis, and a sentence for the reader of a figure.
_MEANINGS: Mapping[str, str] = {DEFAULT: "fraction of gradient entries masked"}
_NOTES: Mapping[str, str] = {DEFAULT: "A mask ratio of 0 would be plain SFT."}
_BY_FACTORS = ("learning_rate", "rank")  # settings that are usually varied by factors
_DECADE = 10


def differing_settings(config: Mapping[str, Any]) -> Sequence[str]:
    """Return the settings in which the parents of a merge differ, from its config; empty for other runs."""
    settings: Sequence[str] = config.get("over") or ()
    return settings


def seed_of(config: Mapping[str, Any]) -> int | None:
    """Return the seed of a run; None for a merge over seeds, which belongs to no single seed."""
    return None if "seed" in differing_settings(config) else int(config["seed"])


def draws_of(config: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the seeds of a run's data and of its questions, from its config; None if the task lacks the setting."""
    return {name: config["task"].get(name) for name in ("data_seed", "question_seed")}


@dataclass(frozen=True)
class Axis:
    """A numeric setting of runs, given by its dotted path in a run's config, e.g. `method.rank`."""

    setting: str = DEFAULT

    @property
    def key(self) -> str:
        """The setting without its group, e.g. `learning_rate`: a column of CSV files and a tag in MLflow."""
        return self.setting.rpartition(".")[2]

    @property
    def name(self) -> str:
        """The setting in plain words, e.g. `learning rate`."""
        words = self.key.replace("_", " ")
        return f"number of {words.removeprefix('num ')}" if words.startswith("num ") else words

    @property
    def plural(self) -> str:
        """The name in the plural, e.g. `learning rates`."""
        return self.name.replace("number of", "numbers of") if self.name.startswith("number of") else f"{self.name}s"

    @property
    def label(self) -> str:
        """The name for the axis of a figure, with its meaning if that is known."""
        return f"{self.name} ({_MEANINGS[self.setting]})" if self.setting in _MEANINGS else self.name

    @property
    def note(self) -> str:
        """A sentence that helps to read a figure; empty for most settings."""
        return _NOTES.get(self.setting, "")

    def value(self, config: Mapping[str, Any]) -> int | float | None:
        """Return the axis's value in a run's resolved config; None if the setting is missing or null.

        It is None, too, for a merge whose parents differ in the setting.

        Raises:
            UserError: the value is not a finite number.
        """
        if self.setting in differing_settings(config):
            return None
        value: Any = config
        for part in self.setting.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            shown = "a group of settings" if isinstance(value, Mapping) else repr(value)
            raise UserError(f"study.axis must name a setting whose values are numbers, got {self.setting}={shown}")
        return value

    def is_logarithmic(self, values: Iterable[float]) -> bool:
        """Return whether a figure shows these values on a logarithmic scale."""
        known = [value for value in values if not math.isnan(value)]
        return self.key in _BY_FACTORS and bool(known) and 0 < _DECADE * min(known) < max(known)

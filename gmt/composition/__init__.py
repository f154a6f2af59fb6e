"""The use of Hydra: composes the configs of runs, and turns Hydra's errors into sentences."""

from gmt.composition.composer import Composer, to_plain, with_values
from gmt.composition.config_errors import user_errors
from gmt.composition.overrides import as_text, parse_override
from gmt.composition.session import CONFIG_NAME, VERSION_BASE, extra_config_dir, hydra_on

__all__ = [
    "CONFIG_NAME",
    "VERSION_BASE",
    "Composer",
    "as_text",
    "extra_config_dir",
    "hydra_on",
    "parse_override",
    "to_plain",
    "user_errors",
    "with_values",
]

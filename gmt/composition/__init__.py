"""The use of Hydra: where conf/ is, how the config of a run is composed, and Hydra's errors as sentences."""

from gmt.composition.composer import Composer, to_plain, with_values
from gmt.composition.config_errors import user_errors
from gmt.composition.overrides import as_text, parse_override
from gmt.composition.session import CONFIG_NAME, VERSION_BASE, extra_config_dir, hydra_on
from gmt.config_dir import config_dir

__all__ = [
    "CONFIG_NAME",
    "VERSION_BASE",
    "Composer",
    "as_text",
    "config_dir",
    "extra_config_dir",
    "hydra_on",
    "parse_override",
    "to_plain",
    "user_errors",
    "with_values",
]

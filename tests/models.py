"""Models and trainings as a config without changes gives them."""

from typing import Any

import yaml

from gmt.config_dir import config_dir
from gmt.models.pretrained import PretrainedModel
from gmt.training.settings import TrainSettings


def pretrained(path: str = "shipped:nano", **settings: Any) -> PretrainedModel:
    """conf/model/pretrained.yaml with a path and some other settings."""
    plain = {"revision": None, "source": "files", "gguf": None, "dtype": "float32", "attention": "sdpa"}
    off = dict.fromkeys(("gradient_checkpointing", "trust_remote_code"), False)
    return PretrainedModel(**{"name": "x", "path": path} | plain | off | settings)


def train_settings(**changes: Any) -> TrainSettings:
    """conf/train/quickstart.yaml with some other settings."""
    return TrainSettings(**yaml.safe_load((config_dir() / "train" / "quickstart.yaml").read_text()) | changes)

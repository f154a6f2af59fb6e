"""Models as a config without changes gives them."""

from typing import Any

from gmt.models.pretrained import PretrainedModel


def pretrained(path: str = "shipped:nano", **settings: Any) -> PretrainedModel:
    """conf/model/pretrained.yaml with a path and some other settings."""
    plain = {"revision": None, "source": "files", "gguf": None, "dtype": "float32", "attention": "sdpa"}
    off = dict.fromkeys(("gradient_checkpointing", "trust_remote_code"), False)
    return PretrainedModel(**{"name": "x", "path": path} | plain | off | settings)

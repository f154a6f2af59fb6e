"""A method that puts LoRA adapters into the model when it attaches, as an author might write it: it must be refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gmt.methods.sft import Dense, Sft


@dataclass(frozen=True, kw_only=True)
class Lora(Sft):
    """Trains low-rank adapters, and merges them at the end."""

    def attach(self, model: Any, optimizer: Any, *, seed: int, facts_every: int) -> Merging:
        from peft import LoraConfig, inject_adapter_in_model

        inject_adapter_in_model(LoraConfig(target_modules=["q_proj"], r=2), model)
        optimizer.add_param_group({"params": [p for n, p in model.named_parameters() if "lora_" in n]})
        return Merging(model)


class Merging(Dense):
    """The adapters at work."""

    def __init__(self, model: Any):
        self._model = model

    def detach(self) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in [m for m in self._model.modules() if isinstance(m, BaseTunerLayer)]:
            module.merge()

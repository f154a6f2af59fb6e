"""Saves, switches off and merges peft's adapters in a model. Only functions import peft."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel


class MergeableAdapter:
    """A model with an adapter beside its weights, which do not change."""

    def __init__(self, adapted: PeftModel):
        from peft.tuners._buffer_dict import BufferDict

        self._adapted = adapted
        self._shared = [module for module in adapted.modules() if isinstance(module, BufferDict)]
        self._set_saved(False)  # transformers can't save tensors that many layers share; these follow from a seed

    def save(self, folder: Path) -> None:
        """Write the adapter as `PeftModel.from_pretrained` reads it."""
        self._set_saved(True)
        self._adapted.save_pretrained(str(folder), save_embedding_layers=False)
        self._set_saved(False)

    def _set_saved(self, is_saved: bool) -> None:
        """Set whether state dicts hold VeRA's matrices, which all layers share."""
        for module in self._shared:
            module._non_persistent_buffers_set = set() if is_saved else {name for name, _ in module.named_buffers()}

    def restore(self) -> None:
        """Merge the adapter into the model's weights."""
        self._adapted.merge_and_unload()

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Switch the adapter off inside the block."""
        with self._adapted.disable_adapter():
            yield


class ConvertedAdapter:
    """A model with a LoRA that began as a part of the weights and was subtracted from them (PiSSA, OLoRA, ...).

    peft saves it as a LoRA of twice the rank for the base's own weights. That LoRA is merged at the end, so that the
    saved adapter and the evaluated weights agree bit for bit. It differs from the trained adapter by rounding: in half
    precision, the subtraction was rounded.

    Args:
        adapted: peft's model, with the adapter at its initial values.
        model: the model inside it.
        originals: the base's weights by name, before the subtraction; on the CPU.
    """

    def __init__(self, adapted: PeftModel, model: PreTrainedModel, originals: dict[str, Tensor]):
        from peft import get_peft_model_state_dict

        self._adapted, self._model, self._originals = adapted, model, originals
        config: Any = adapted.peft_config["default"]
        config.corda_config = config.lora_ga_config = None  # settings of the initialisation; a converted LoRA has none
        state: dict[str, Tensor] = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        self._initial = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}

    def save(self, folder: Path) -> None:
        """Write the adapter as `PeftModel.from_pretrained` reads it, for the base as it was."""
        from safetensors.torch import save_file

        with TemporaryDirectory() as scratch:
            initial = Path(scratch) / "initial"
            initial.mkdir()
            save_file(self._initial, initial / "adapter_model.safetensors", metadata={"format": "pt"})
            self._adapted.save_pretrained(
                str(folder), save_embedding_layers=False, path_initial_model_for_weight_conversion=str(initial)
            )

    def restore(self) -> None:
        """Put the base's weights back and merge the adapter into them, converted as it is saved."""
        import torch

        with TemporaryDirectory() as scratch:
            self.save(Path(scratch))
            unloaded: Any = self._adapted.unload()
            assert unloaded is self._model
            with torch.no_grad():
                for name, original in self._originals.items():
                    self._model.get_parameter(name).copy_(original)
            merge_saved(self._model, Path(scratch))


def is_whole_adapter(folder: Path) -> bool:
    """Return whether a folder has the weights of an adapter that peft saved, and no other weights."""
    weights = {file.name for file in folder.glob("*.safetensors")}
    return weights == {"adapter_model.safetensors"} and (folder / "adapter_config.json").exists()


def merge_saved(model: PreTrainedModel, folder: Path) -> None:
    """Merge a saved adapter into the weights of its base, in place."""
    from peft import PeftModel

    PeftModel.from_pretrained(model, str(folder)).merge_and_unload()

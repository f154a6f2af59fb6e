"""A finished run for export: gives its weights and its base's weights, read tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gmt.errors import UserError
from gmt.masking.bits import weights_sha256
from gmt.methods.adapter_parts import is_whole_adapter, merge_saved
from gmt.methods.protocol import Method, UsesContext
from gmt.models.protocol import Model
from gmt.records.record import RunRecord
from gmt.runs.build import plug_in
from gmt.runs.code_versions import code_of_environment
from gmt.runs.settings import RecordSettings
from gmt.tasks.chat import set_template
from gmt.training.reshaping import Reshaping
from gmt.training.saved_tensors import SavedTensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ExportedRun:
    """A finished run whose record has not changed since the run ended.

    Args:
        record: the run's record.
        settings: the record settings, which say whether files of other users are trusted.

    Raises:
        UserError: the run is not done, has changed since it ended, or has stored neither weights nor an adapter.
    """

    def __init__(self, record: RunRecord, settings: RecordSettings):
        record.check()
        record.check_unchanged()
        if (state := record.state()) != "done":
            raise UserError(
                f"run {record.id} can't be exported, since it is not done ({state}): finish it by `gmt run` or "
                "`gmt sweep` with its settings"
            )
        self.record, self._settings = record, settings
        self._config, self._science = (record.read("config.json")[key] for key in ("config", "science"))
        self.weights = _folder(record, "weights")
        self.adapter = _folder(record, "adapter")
        if self.weights is None and self.adapter is None:
            raise UserError(
                f"run {record.id} can't be exported, since it stored no weights (record.keep_weights=false): delete "
                f"{record.folder} and run it anew with record.keep_weights=true"
            )

    @property
    def peft_adapter(self) -> Path | None:
        """The folder of the run's peft adapter; None if the run stored no adapter, or other trained parts beside it."""
        return self.adapter if self.adapter is not None and is_whole_adapter(self.adapter) else None

    @cached_property
    def model(self) -> Model:
        """The settings of the base.

        Raises:
            UserError: the base's files have changed since the training.
        """
        model: Model = plug_in("model", dict(self._config["model"]), Model)
        if model.fingerprint() != self._science["fingerprints"]["model"]:
            raise UserError(
                f"run {self.record.id} was trained from other files than model {model.name} has now: restore the files "
                "of the training"
            )
        return model

    @cached_property
    def base(self) -> Mapping[str, Tensor]:
        """The base's weights by name, tied weights once, rounded to the dtypes of the run's weights."""
        parameters = {name: parameter.detach() for name, parameter in self.model.base().named_parameters()}
        return _Rounded(parameters, self.tuned)

    @cached_property
    def tuned(self) -> Mapping[str, Tensor]:
        """The run's weights by the names of the base's parameters.

        Raises:
            UserError: the stored weights are not those that the run ended with.
        """
        if self.weights is None:
            return {name: parameter.detach() for name, parameter in self.merged.named_parameters()}
        stored = SavedTensors(self.weights, [name for name, _ in self.model.base().named_parameters()])
        stored.check(self.record.result().weights_sha256)
        return stored

    @cached_property
    def merged(self) -> PreTrainedModel:
        """The base with the run's adapter merged in, for a run that stored an adapter only.

        Raises:
            UserError: the adapter changes no weights, its files can't be merged, or the merged weights are not those
                that the run ended with.
        """
        assert self.adapter is not None
        method: Method = plug_in("method", dict(self._config["method"]), Method)
        if isinstance(method, UsesContext):
            raise UserError(
                f"run {self.record.id} trained vectors before each text (method {method.name}) and changed no weights: "
                "`gmt export RUN --peft FOLDER` exports them"
            )
        for path in (self.adapter, *self.adapter.iterdir()):
            self._settings.refuse_foreign(path)
        model = self.model.load_model()
        if self.peft_adapter is not None:
            merge_saved(model, self.peft_adapter)
        else:
            self._merge_parts(method, model, self.adapter)
        if weights_sha256(dict(model.named_parameters())) != self.record.result().weights_sha256:
            raise UserError(
                f"the adapter of run {self.record.id}, merged on this machine's CPU, gives other weights than the run "
                f"ended with: delete {self.record.folder} and run it anew with record.keep_weights=merged"
            )
        return model

    def _merge_parts(self, method: Method, model: PreTrainedModel, folder: Path) -> None:
        parts = Reshaping(method, model, seed=self._science["seed"])
        if not parts.load(folder):
            raise UserError(
                f"run {self.record.id} can't be exported, since the files of method {method.name} can't be merged "
                f"after the run: delete {self.record.folder} and run it anew with record.keep_weights=merged"
            )
        parts.finish()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer of the training, with the task's chat template."""
        tokenizer = self.model.load_tokenizer()
        set_template(tokenizer, self._config["task"].get("chat_template"))
        return tokenizer

    def provenance(self) -> dict[str, Any]:
        """Return the facts about the run that an export carries: id, hash of the weights, base's name, and code."""
        environment = self.record.read("environment.json")
        return {
            "run_id": self.record.id,
            "weights_sha256": self.record.result().weights_sha256,
            "model": self._science["model"]["name"],
            "code": code_of_environment(environment),
        }


class _Rounded(Mapping[str, Tensor]):
    """Tensors by name, each rounded on access to the dtype of the tensor of that name in another mapping."""

    def __init__(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]):
        self._tensors = tensors
        self._dtypes: dict[str, torch.dtype] = {name: like[name].dtype for name in tensors}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].to(self._dtypes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _folder(record: RunRecord, name: str) -> Path | None:
    folder = record.folder / name
    return folder if any(folder.glob("*.safetensors")) else None

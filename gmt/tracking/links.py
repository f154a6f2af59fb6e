"""Links runs in MLflow with their training data, base and final weights, as MLflow's datasets and models.

Weights stay in the run record: a model in MLflow is a name, a fingerprint and the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from gmt.records.record import RunRecord

_FINGERPRINT = "gmt.fingerprint"
_NAME_LENGTH = 250
_DIGEST_LENGTH = 32  # MLflow takes at most 36 characters


class Links:
    """Links the runs of an experiment with datasets and models; does nothing if the store is too old for them.

    Args:
        client: the client of the store.
        experiment_id: the experiment of the runs.
    """

    def __init__(self, client: MlflowClient, experiment_id: str):
        self._client, self._experiment_id = client, experiment_id
        self._bases: dict[str, str] = {}

    def link(self, run: Run, record: RunRecord) -> None:
        """Link training data, base and final weights with a run.

        Args:
            run: the run as last read from the store; existing links stay.
            record: the record of the run, which has ended.
        """
        try:
            self._link(run, record)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(ENDPOINT_NOT_FOUND):  # a server older than these links
                raise

    def _link(self, run: Run, record: RunRecord) -> None:
        science, id_ = record.read("config.json")["science"], run.info.run_id
        if not (run.inputs and run.inputs.dataset_inputs):
            data = DatasetInput(_dataset(science, record), [InputTag(MLFLOW_DATASET_CONTEXT, "training")])
            self._client.log_inputs(id_, [data], [LoggedModelInput(self._base_model_id(science))])
        weights, is_done = record.folder / "weights", (record.folder / "result.json").exists()
        if weights.exists() and is_done and not (run.outputs and run.outputs.model_outputs):
            result = record.result()
            tags = {_FINGERPRINT: result.weights_sha256, "gmt.weights": str(weights.resolve())}
            model = self._create_model(_allowed_name(f"{science['method']['name']}-{record.id}"), tags, id_)
            self._client.log_outputs(id_, [LoggedModelOutput(model, result.num_steps)])

    def _base_model_id(self, science: Mapping[str, Any]) -> str:
        """Return the id of the base model, which all runs of the experiment with this base share."""
        fingerprint = str(science["fingerprints"]["model"])
        if fingerprint not in self._bases:
            models = self._client.search_logged_models(
                [self._experiment_id], f"tags.`{_FINGERPRINT}` = '{fingerprint}'"
            )
            tags = {_FINGERPRINT: fingerprint, "gmt.path": str(science["model"].get("path"))}
            name = _allowed_name(str(science["model"]["name"]))
            self._bases[fingerprint] = models[0].model_id if models else self._create_model(name, tags, None)
        return self._bases[fingerprint]

    def _create_model(self, name: str, tags: Mapping[str, str], source: str | None) -> str:
        model = self._client.create_logged_model(self._experiment_id, name, source, dict(tags), model_type="causal LM")
        self._client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)


def _dataset(science: Mapping[str, Any], record: RunRecord) -> Dataset:
    task, is_done = science["task"], (record.folder / "result.json").exists()
    source = {key: value for key, value in task.items() if key not in ("target", "source")}
    selection = [science["selection"], science["seed"]] if "selection" in science else []  # they decide the examples
    text = json.dumps([source, science["fingerprints"]["task"], *selection], sort_keys=True)
    num_rows = record.result().num_train_examples if is_done else None
    return Dataset(
        name=_allowed_name(str(task["name"])),
        digest=hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH],
        source_type=str(task["_target_"]).rpartition(".")[2],
        source=json.dumps(source),
        profile=None if num_rows is None else json.dumps({"num_rows": num_rows}),
    )


def _allowed_name(name: str) -> str:
    """Return a name without the characters that MLflow forbids in a model's name, cut to the allowed length."""
    return "".join("-" if character in "/:.%\"'" else character for character in name)[-_NAME_LENGTH:]

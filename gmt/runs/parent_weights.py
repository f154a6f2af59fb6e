"""The weights that a merge reads, tensor by tensor: its base's, and those in its parents' safetensors files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gmt.errors import UserError
from gmt.models.protocol import Model
from gmt.records.record import RunRecord
from gmt.runs.build import Run, plug_in
from gmt.runs.parents import parents_of
from gmt.training.saved_tensors import SavedTensors

_IN_BLOCK = re.compile(r"^(?P<stack>(?:.*?\.)?)(?P<block>\d+)\.")


@dataclass(frozen=True)
class ParentWeights:
    """The weights of a finished run and of the base that it was trained from, by name; read-only."""

    tuned: Mapping[str, Tensor]
    base: Mapping[str, Tensor]


@dataclass(frozen=True)
class StoredWeights:
    """The weights that a merge reads (gmt.merges.protocol.Weights).

    Args:
        base_tensors: the weights of the run's base, by name; read-only.
        dtype: the dtype of each tensor of the merged model, by name; the base's tensors are rounded to it.
        parents: the parents' weights, in the order of the run's parents.
    """

    base_tensors: Mapping[str, Tensor]
    dtype: Mapping[str, torch.dtype]
    parents: Sequence[ParentWeights]

    @property
    def names(self) -> Sequence[str]:
        """The names of all tensors."""
        return list(self.base_tensors)

    @property
    def num_parents(self) -> int:
        """The number of parents."""
        return len(self.parents)

    @property
    def num_blocks(self) -> int:
        """The number of the model's blocks."""
        return max(self._blocks.values(), default=-1) + 1

    def block(self, name: str) -> int | None:
        """Return the number of a tensor's block."""
        return self._blocks.get(name)

    def base(self, name: str) -> Tensor:
        """Return a copy of the base's tensor, in float32."""
        return self.base_tensors[name].detach().to(self.dtype[name]).to(torch.float32, copy=True)

    def tuned(self, parent: int, name: str) -> Tensor:
        """Return a parent's tensor, in float32."""
        return self.parents[parent].tuned[name].float()

    def delta(self, parent: int, name: str) -> Tensor:
        """Return a parent's delta from its own base, in float32; zero in rows that only the merge's vocabulary has."""
        weights = self.parents[parent]
        tuned = weights.tuned[name]
        delta = tuned.float() - weights.base[name].detach().to(tuned.dtype).float()
        if delta.shape == self.base_tensors[name].shape:
            return delta
        padded = torch.zeros(self.base_tensors[name].shape)
        padded[: len(delta)] = delta
        return padded

    def only(self, members: Sequence[int]) -> StoredWeights:
        """Return the weights with only the parents of the given numbers."""
        return StoredWeights(self.base_tensors, self.dtype, [self.parents[number] for number in members])

    @cached_property
    def _blocks(self) -> Mapping[str, int]:
        """Block numbers by tensor name: the first number in the name, for tensors of the stack with most tensors."""
        matches = {name: match for name in self.base_tensors if (match := _IN_BLOCK.match(name)) is not None}
        num_tensors = Counter(match["stack"] for match in matches.values())
        largest = max(num_tensors, key=lambda stack: num_tensors[stack], default=None)
        return {name: int(match["block"]) for name, match in matches.items() if match["stack"] == largest}


def open_parents(run: Run, records: Sequence[RunRecord]) -> list[ParentWeights]:
    """Open the weights of a merge's parents.

    Raises:
        UserError: a parent's files are not the weights that its run ended with.
    """
    opened = []
    for record, base in zip(records, bases(run, {}), strict=True):
        parameters = dict(base.named_parameters())
        tuned = SavedTensors(record.folder / "weights", parameters)
        tuned.check(record.result().weights_sha256)
        opened.append(ParentWeights(tuned, parameters))
    return opened


def bases(run: Run, planned: Mapping[str, Run]) -> list[PreTrainedModel]:
    """Return the base of each parent of a merge; the merge's own base object where the parent's model is the same.

    Args:
        run: the merge.
        planned: the parents that have no record yet, by run id.

    Raises:
        UserError: a parent's base differs from the merge's base in a tensor's name or shape; fewer rows of the
            vocabulary are allowed.
    """
    merge_base, parent_bases = run.model.base(), []
    for record in parents_of(run):
        base = _base_of(run, record, planned)
        if base is not merge_base:
            _check_architecture(run, merge_base, record, base)
        parent_bases.append(base)
    return parent_bases


def _base_of(run: Run, record: RunRecord, planned: Mapping[str, Run]) -> PreTrainedModel:
    if record.id in planned:
        return planned[record.id].model.base()
    stored = record.read("config.json")
    if stored["science"]["model"] == run.science["model"]:
        return run.model.base()
    model: Model = plug_in("model", dict(stored["config"]["model"]), Model)
    return model.base()


def _check_architecture(run: Run, merge_base: PreTrainedModel, record: RunRecord, parent_base: PreTrainedModel) -> None:
    merge_shapes, parent_shapes = (
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        for model in (merge_base, parent_base)
    )
    vocabulary = _vocabulary(parent_base)
    for name in dict.fromkeys([*merge_shapes, *parent_shapes]):
        in_merge, in_parent = merge_shapes.get(name), parent_shapes.get(name)
        if not _fits(in_merge, in_parent, is_vocabulary=name in vocabulary):
            raise UserError(
                f"a merge needs parents of the architecture of its own model {run.model.name}, and {name} has the "
                f"shape {in_merge} in this model and {in_parent} in the model of run {record.id}"
            )


def _fits(in_merge: tuple[int, ...] | None, in_parent: tuple[int, ...] | None, *, is_vocabulary: bool) -> bool:
    """Return whether two shapes of a tensor are the same, or the parent's has fewer rows of the vocabulary."""
    if in_merge is None or in_parent is None:
        return False
    return in_merge == in_parent or (is_vocabulary and in_merge[1:] == in_parent[1:] and in_merge[0] > in_parent[0])


def _vocabulary(model: PreTrainedModel) -> set[str]:
    """Return the names of the tensors with one row for each token."""
    untyped: Any = model
    embeddings = (untyped.get_input_embeddings(), untyped.get_output_embeddings())
    layers = [layer for layer in embeddings if layer is not None]
    return {name for name, parameter in model.named_parameters() if any(parameter is layer.weight for layer in layers)}

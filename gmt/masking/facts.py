"""Facts of a step, measured on a sample of entries: which gradients were kept, and which weights moved.

A masked gradient does not make the update sparse: momentum and weight decay also move masked entries. So a fixed random
sample of each parameter's entries (gmt/masking/sampling.py) is copied before the step and compared after it, which
needs no copy of the model. A model with fewer entries than the sample is measured whole.

Shape suffixes: S sampled entries, of one parameter or of all; L layers; F the sums of _SUMS; T parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.parameters import Ranked, layer_of
from gmt.masking.rule import to_device
from gmt.masking.sampling import Index, pick, sample_index
from gmt.masking.sharding import ProcessGroups, local, shards_of


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """The facts of one layer or of all layers; fractions of the sampled entries, in [0, 1].

    Args:
        num_sampled: measured entries.
        kept_fraction: entries that the mask kept.
        zero_fraction: entries whose gradient was exactly zero before masking.
        energy_kept: share of the squared gradient norm on kept entries; 1 if the gradient was all zero.
        moved_fraction: entries whose weight changed at the step.
        masked_update_energy: share of the squared norm of the update on masked entries; 0 if nothing moved.
        overlap: the number of entries that both this mask and the previous step's keep, over the number that at least
            one of them keeps (Jaccard index); None without a previous step.
        touched_fraction: entries that are known to have moved since the mask was attached.
    """

    num_sampled: int
    kept_fraction: float
    zero_fraction: float
    energy_kept: float
    moved_fraction: float
    masked_update_energy: float
    overlap: float | None
    touched_fraction: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The facts of a step that was measured.

    Args:
        model: the facts over all ranked parameters.
        layers: the facts of each layer, that is, of the parameters under one number in their names; a parameter without
            a number is a layer of its own.
    """

    model: LayerFacts
    layers: dict[str, LayerFacts]


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """The facts of the last optimizer step.

    Args:
        step: the number of optimizer steps so far.
        num_entries: the number of entries of all ranked gradients, over all shards.
        density: the fraction of these entries that the mask kept, in [0, 1]; exact. Most signals never keep a score of
            zero.
        seconds: the wall-clock time of masking at this step.
        measured: the facts of the sample; None at steps that are not measured (`facts_every`).
    """

    step: int
    num_entries: int
    density: float
    seconds: float
    measured: Measured | None

    def as_dict(self) -> dict[str, float]:
        """Return the facts under flat names, for a logger; the names of a layer's facts are `layers/<layer>/<fact>`.

        A fact that was not measured at this step, or does not exist yet, is left out.
        """
        values = {name: value for name, value in vars(self).items() if name != "measured"}
        if self.measured is not None:
            values |= vars(self.measured.model)
            for layer, facts in self.measured.layers.items():
                values |= {f"layers/{layer}/{name}": value for name, value in vars(facts).items()}
        return {name: value for name, value in values.items() if value is not None}


_SUMS = (
    "sampled",
    "kept",
    "zero",
    "energy",
    "energy_kept",
    "moved",
    "update",
    "update_masked",
    "both",
    "either",
    "touched",
)


class Sample:
    """The measured entries, the same share of each parameter, with their weights and masks of the last measurement."""

    def __init__(self, num_entries: int):
        self._num_entries = num_entries
        self._share = 0.0
        self._indices: dict[str, Index] = {}
        self._touched: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def set_share(self, ranked: Sequence[Ranked]) -> None:
        """Set the share of entries that is measured, at the first call with parameters."""
        if ranked and not self._share:
            self._share = min(self._num_entries / max(sum(r.num_entries for r in ranked), 1), 1.0)

    def index(self, r: Ranked) -> Index:
        """Return the indices of a parameter's measured entries on this process."""
        return self._index_of(r.name, r.parameter)

    def _index_of(self, name: str, parameter: nn.Parameter) -> Index:
        if name not in self._indices:
            self._indices[name] = sample_index(parameter, name, self._share)
        return self._indices[name]

    def remember(self, kept: dict[str, Tensor]) -> None:
        """Store a step's mask for the overlap with the next."""
        self._kept = kept

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold."""
        return {"share": self._share, "touched": self._touched, "weights": self._weights, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state.

        Raises:
            ValueError: the state was saved by an earlier version, which measured other entries.
        """
        if "share" not in state:
            raise ValueError(
                "the mask's state was saved by an earlier version of gmt, which measured other entries: "
                "start the training again, or finish it with the version that saved the state"
            )
        self._share, self._indices = state["share"], {}
        self._touched, self._weights, self._kept = dict(state["touched"]), dict(state["weights"]), dict(state["kept"])

    def measure(
        self, ranked: Sequence[Ranked], kept: dict[str, Tensor], *, gradients: dict[str, Tensor] | None = None
    ) -> Callable[[], Measured]:
        """Copy the sample before a step; return a function that compares it with the weights after the step.

        Args:
            ranked: the parameters; their gradients are not masked yet.
            kept: the mask of each parameter's sampled entries, bool of shape [S].
            gradients: the gradients of the sampled entries, if the parameters' own gradients are freed already.
        """
        samples = {r.name: r.sample(self.index(r)) for r in ranked}
        sampled_gradients = {name: r.gradient_N for name, r in samples.items()} if gradients is None else gradients
        weights = {name: r.weight_N for name, r in samples.items()}
        kept_before, self._kept = self._kept, kept

        def measure_again() -> Measured:
            return self._compare(ranked, sampled_gradients, weights, kept, kept_before)

        return measure_again

    def num_touched(self, parameters: Mapping[str, nn.Parameter]) -> int | None:
        """Return an estimate of how many entries have moved, from the sample; None before the first measurement.

        If parameters are sharded, every process must call this.

        Args:
            parameters: the model's parameters by name.
        """
        if not self._touched:
            return None
        total = 0.0
        for name, touched_S in self._touched.items():
            p = parameters[name]
            weight_S = pick(local(p.detach()).reshape(-1), self._index_of(name, p))
            moved_S = touched_S.to(weight_S.device) | (weight_S != self._weights[name].to(weight_S.device))
            counts = torch.stack([moved_S.sum().double(), moved_S.new_tensor(len(moved_S), dtype=torch.float64)])
            if (shards := shards_of(p)) is not None:
                shards.sum_(counts)
            total += p.numel() * float(counts[0] / counts[1].clamp(min=1))
        return round(total)

    def _compare(
        self,
        ranked: Sequence[Ranked],
        gradients: dict[str, Tensor],
        weights: dict[str, Tensor],
        kept: dict[str, Tensor],
        kept_before: dict[str, Tensor],
    ) -> Measured:
        layers = list(dict.fromkeys(layer_of(r.name) for r in ranked))
        by_place: dict[tuple[ProcessGroups | None, torch.device], list[tuple[int, _SampledEntries]]] = {}
        for r in ranked:
            after_S = pick(local(r.parameter.detach()).reshape(-1), self.index(r))
            moved_S = self._touch(r.name, weights[r.name], after_S)
            last_S = kept_before.get(r.name)
            entries = _SampledEntries(
                gradient_S=gradients[r.name],
                before_S=weights[r.name],
                after_S=after_S,
                moved_S=moved_S,
                kept_S=kept[r.name],
                last_S=torch.zeros_like(kept[r.name]) if last_S is None else last_S.to(after_S.device),
                has_last_S=torch.full_like(kept[r.name], last_S is not None),
                touched_S=self._touched[r.name],
            )
            by_place.setdefault((r.shards, after_S.device), []).append((layers.index(layer_of(r.name)), entries))
        sums = {place: _sums_by_layer(samples, len(layers)) for place, samples in by_place.items()}
        for (shards, _), sum_LF in sums.items():
            if shards is not None:
                shards.sum_(sum_LF)
        rows = sum(
            (sum_LF.cpu() for sum_LF in sums.values()), torch.zeros(len(layers), len(_SUMS), dtype=torch.float64)
        ).tolist()
        facts = {layer: _facts(dict(zip(_SUMS, row, strict=True))) for layer, row in zip(layers, rows, strict=True)}
        of_model = [sum(row[i] for row in rows) for i in range(len(_SUMS))]
        return Measured(model=_facts(dict(zip(_SUMS, of_model, strict=True))), layers=facts)

    def _touch(self, name: str, before_S: Tensor, after_S: Tensor) -> Tensor:
        """Return which entries moved at this step; mark these, and all that moved since the last measurement."""
        moved_S = after_S != before_S
        last_S = self._weights.get(name)  # the weights at the last measurement
        touched_S = moved_S if last_S is None else (after_S != last_S.to(after_S.device)) | moved_S
        if name in self._touched:
            touched_S = touched_S | self._touched[name].to(after_S.device)
        self._touched[name], self._weights[name] = touched_S, after_S
        return moved_S


@dataclass(frozen=True, kw_only=True)
class _SampledEntries:
    """A parameter's sampled entries at a step.

    Args:
        gradient_S: gradients before masking.
        before_S, after_S: weights before and after the step.
        moved_S, touched_S: whether an entry moved at this step, and whether it moved at any step.
        kept_S, last_S: the masks of this step and of the previous one; `last_S` is False if there is no previous mask.
        has_last_S: whether there is a previous mask.
    """

    gradient_S: Tensor
    before_S: Tensor
    after_S: Tensor
    moved_S: Tensor
    kept_S: Tensor
    last_S: Tensor
    has_last_S: Tensor
    touched_S: Tensor

    def columns(self) -> list[Tensor]:
        """Return the values that are added up for each name in _SUMS, bool or float64 of shape [S]."""
        energy_S = self.gradient_S.double().square()
        update_S = (self.after_S.double() - self.before_S.double()).square()
        return [
            torch.ones_like(self.kept_S),
            self.kept_S,
            self.gradient_S == 0,
            energy_S,
            energy_S * self.kept_S,
            self.moved_S,
            update_S,
            update_S * ~self.kept_S,
            self.kept_S & self.last_S,
            (self.kept_S | self.last_S) & self.has_last_S,
            self.touched_S,
        ]


def _sums(entries: _SampledEntries) -> Tensor:
    return torch.stack([column.sum().double() for column in entries.columns()])


def _sums_together(samples: Sequence[_SampledEntries]) -> list[Tensor]:
    """Return each sample's sums, on the CPU; a GPU adds up all samples at once, which saves hundreds of launches."""
    names = [field.name for field in fields(_SampledEntries)]
    joint = _SampledEntries(**{name: torch.cat([getattr(entries, name) for entries in samples]) for name in names})
    columns_SF = torch.stack([column.double() for column in joint.columns()], 1)
    lengths_T = to_device([len(entries.kept_S) for entries in samples], columns_SF.device)
    return list(torch.segment_reduce(columns_SF, "sum", lengths=lengths_T).cpu())


def _sums_by_layer(samples: Sequence[tuple[int, _SampledEntries]], num_layers: int) -> Tensor:
    """Return the sums of _SUMS over the samples on one device, float64 of shape [layers, len(_SUMS)].

    Args:
        samples: for each parameter, the number of its layer and its sampled entries.
        num_layers: the number of layers.
    """
    device, of_parameters = samples[0][1].kept_S.device, [entries for _, entries in samples]
    rows = [_sums(entries) for entries in of_parameters] if device.type == "cpu" else _sums_together(of_parameters)
    sum_LF = torch.zeros(num_layers, len(_SUMS), dtype=torch.float64, device="cpu")
    for (layer, _), row in zip(samples, rows, strict=True):
        sum_LF[layer] += row
    return sum_LF.to(device)


def _facts(sums: dict[str, float]) -> LayerFacts:
    num = sums["sampled"] or 1.0
    return LayerFacts(
        num_sampled=int(sums["sampled"]),
        kept_fraction=sums["kept"] / num,
        zero_fraction=sums["zero"] / num,
        energy_kept=sums["energy_kept"] / sums["energy"] if sums["energy"] else 1.0,
        moved_fraction=sums["moved"] / num,
        masked_update_energy=sums["update_masked"] / sums["update"] if sums["update"] else 0.0,
        overlap=sums["both"] / sums["either"] if sums["either"] else None,
        touched_fraction=sums["touched"] / num,
    )

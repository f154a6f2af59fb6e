"""What a method is to the rest of the program. Imports nothing, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


class Method(Protocol):
    """The settings of a method: a frozen dataclass that checks its values in `__post_init__`.

    The constructor's arguments are the method's part of the config, so a study can sweep each of them. It must
    be importable without torch: import it in `attach`.
    """

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    @property
    def density_asked(self) -> float | None:
        """The fraction of entries that is asked to be kept at a step; None where the method asks for no number."""
        ...

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Attached:
        """Puts the method on a model and its optimizer, just before training; both are changed in place.

        What may not change, here or later: the model's parameters, buffers and modules (neither added, removed nor
        replaced), the optimizer's parameters, and what a module computes; gmt/training/structure.py refuses it, and
        `ReshapesModel` is where it can be done. Values,
        `requires_grad`, hooks on gradients and on the optimizer, and forward hooks that only look are the method's.

        Args:
            model: to be trained.
            optimizer: over its parameters; torch's own, never another library's wrapper around it.
            seed: of the method's draws.
            facts_every: every how many steps facts that take time are asked for; 0 for never.
        """
        ...


@runtime_checkable
class ReshapesModel(Protocol):
    """An optional part of Method: it puts parts of its own into the model, such as adapters, and trains those."""

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Puts them in, in place, before the optimizer, the workers' copies and the checkpoint know the model.

        Args:
            model: on the CPU; also tried without weights, on the device `meta`, before a run starts. Of its parameters,
                those that require a gradient afterwards are trained.
            seed: of the method's draws; torch's generator of the CPU has it already.

        Raises:
            UserError: the method can't work with this model.
        """
        ...


@runtime_checkable
class ReadsExamples(Protocol):
    """An optional part of ReshapesModel: what its parts begin with depends on examples that are trained on."""

    @property
    def num_examples(self) -> int:
        """How many rows of the training data it reads; 0 for none, and `reshape` is called."""
        ...

    def reshape_by(
        self, model: PreTrainedModel, *, seed: int, batches: Callable[[int], Iterator[Mapping[str, Any]]]
    ) -> Reshaped:
        """Does what `reshape` does, called in its place on a model with weights; each attempt at a run calls it anew.

        Each worker calls it with the same examples, and each must come to the same parts.

        Args:
            model: on the device that trains it.
            seed: of the method's draws; torch's generators have it already.
            batches: makes mini-batches of so many of the examples, as the model's forward pass takes them, each time in
                the same order.

        Raises:
            UserError: the method can't work with this model or these examples.
        """
        ...


@runtime_checkable
class UsesContext(Protocol):
    """An optional part of ReshapesModel: its parts stand before each text, where they take room in the context."""

    @property
    def num_tokens(self) -> int:
        """How many of the model's positions they take."""
        ...


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """What a method needs to know of an optimizer before one is made.

    Args:
        name: as in train.optimizer.
        has_first_moment: whether it keeps a running sum of its gradients.
        moments: how it keeps its moments: `entries`: each shaped like its parameter; `factored`: by rows and columns;
            `packed`: in 8 bits; `none`: it keeps none.
        averages_weights: whether what is evaluated is an average of the weights that it has passed through.
    """

    name: str
    has_first_moment: bool
    moments: str
    averages_weights: bool


@runtime_checkable
class FitsOptimizers(Protocol):
    """An optional part of Method: it does not work with every optimizer."""

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence for each setting that the optimizer can't follow; asked when a run is planned."""
        ...


ParameterGroup = dict[str, Any]
"""Of an optimizer: `params`, a list of parameters, and their settings `lr`, `weight_decay`, `betas` and `eps`."""


@runtime_checkable
class MakesGroups(Protocol):
    """An optional part of Method: settings of train.optimizer that differ between parameters."""

    def groups(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Return the groups that the optimizer of `train` is made with; called on every worker.

        Args:
            model: to be trained.
            groups: of the parameters that train, as they would be without the method: with weight decay and without.

        Returns:
            Groups that hold each of these parameters once. A group's `lr` is its peak, which the schedule scales.
        """
        ...


@runtime_checkable
class MakesOptimizer(Protocol):
    """An optional part of Method: it makes an optimizer of its own in the place of train.optimizer."""

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return a torch optimizer over these parameters, whose state_dict is all that a checkpoint must hold of it.

        Args:
            model: to be trained.
            groups: as for `MakesGroups`, with the settings that AdamW would have; `torch.optim.AdamW(groups)` is one.
        """
        ...


LossTerm = Callable[[Mapping[str, Any]], "Tensor"]
"""Makes the term of a batch: a scalar, a mean over the batch's labelled tokens or a function of the weights alone."""


@runtime_checkable
class AddsLoss(Protocol):
    """An optional part of Method: it adds a term to the loss."""

    def loss_term(self, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]) -> LossTerm:
        """Return what is asked for each mini-batch, after its loss; called on every worker, before the first step.

        The batch's term counts by the batch's share of the labelled tokens of its optimizer step (with DPO, of its
        examples), so that a step adds a mean over its tokens, or a function of the weights, once, however it is cut.

        Args:
            model: to be trained, on its device. Its weights may change before the first step: a resumed training loads
                those of its checkpoint.
            base: makes the model as it was before any training, on the CPU.
        """
        ...


@runtime_checkable
class TrainsInPhases(Protocol):
    """An optional part of Method: it trains several times, each with an optimizer and a schedule of its own.

    `attach` of the method itself is not called, unless a phase is the method itself.
    """

    @property
    def num_phases(self) -> int:
        """How many trainings there are, at least 1; each takes train.num_epochs."""
        ...

    def begin_phase(
        self,
        number: int,
        model: PreTrainedModel,
        carried: Sequence[Mapping[str, Tensor]],
        *,
        base: Callable[[], PreTrainedModel],
    ) -> Method:
        """Set the weights that a phase begins with, in place, and return the method that trains it.

        Called on every worker, for a phase that is begun or gone on with. What it sets must follow from its arguments
        alone, and not from what the model's weights are: a resumed run has loaded the base's.

        Args:
            number: of the phase, from 0.
            model: to be trained, on its device.
            carried: what each earlier phase has handed on.
            base: makes the model as it was before any training, on the CPU.
        """
        ...

    def end_phase(
        self, number: int, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]
    ) -> Mapping[str, Tensor]:
        """Return what a phase that has ended hands on to later ones, such as a mask; not called for the last one."""
        ...


class Reshaped(Protocol):
    """A model with a method's parts in it. One that is no `Mergeable` is evaluated with them in it."""

    def save(self, folder: Path) -> None:
        """Writes what was learnt, without the model's own weights, as safetensors."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """An optional part of Reshaped: what was learnt can be written into the model's own parameters."""

    def restore(self) -> None:
        """Merges what was learnt into the model's own parameters, in place.

        The model then has the modules and the names of parameters that it had before, and is evaluated as such.
        """
        ...


@runtime_checkable
class SwitchesOff(Protocol):
    """An optional part of Reshaped: it can be passed over, so that a training by preferences needs no second model."""

    def switched_off(self) -> AbstractContextManager[None]:
        """Around the block, the model computes what it did before it was reshaped, bit for bit."""
        ...


class Attached(Protocol):
    """A method at work in one training."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch, and again for the epoch in which a resumed training goes on.

        Args:
            epoch: counted from 0.
        """
        ...

    def facts(self) -> Mapping[str, float]:
        """What happened at the last optimizer step, as metrics: below `mask/` those of a mask, else below `method/`.

        A mask gives `density` and `mask_seconds` always. Facts that take time are there every `facts_every` steps.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint's state, whose tensors are on the CPU."""
        ...

    def detach(self) -> None:
        """Leaves model and optimizer without a trace of the method."""
        ...

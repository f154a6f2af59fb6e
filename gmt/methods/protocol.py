"""What a method is to the rest of the program. Imports nothing, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.reshaped import Reshaped


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

        Before a run starts, a method is attached to a model without weights and detached again, as a trial
        (gmt/training/method_trial.py).

        What may not change, here or later: the model's parameters, buffers and modules (neither added, removed nor
        replaced), the optimizer's parameters, and what a module computes; gmt/training/structure.py refuses it, and
        `ReshapesModel` may do it. Values, `requires_grad`, hooks on gradients and on the optimizer, and forward hooks
        that only look are the method's.

        Args:
            model: to be trained.
            optimizer: a torch.optim.Optimizer over its parameters, without another library's wrapper.
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
    """An optional part of ReshapesModel: its parts begin with values that are computed from training examples."""

    @property
    def num_examples(self) -> int:
        """Number of rows of the training data that it reads; with 0, `reshape` is called instead of `reshape_by`."""
        ...

    def reshape_by(
        self, model: PreTrainedModel, *, seed: int, batches: Callable[[int], Iterator[Mapping[str, Any]]]
    ) -> Reshaped:
        """Puts its parts into a model with weights; `reshape` puts them where the shape of the model alone matters.

        Each attempt at a run calls it anew. Every worker calls it with the same examples, and must get the same parts.

        Args:
            model: on the device that trains it.
            seed: of the method's draws; torch's generators have it already.
            batches: returns the examples in mini-batches of the given size, as the model's forward pass takes them, and
                in the same order at each call.

        Raises:
            UserError: the method can't work with this model or these examples.
        """
        ...


@runtime_checkable
class UsesContext(Protocol):
    """An optional part of ReshapesModel: its parts take positions of the context before each text."""

    @property
    def num_tokens(self) -> int:
        """Number of positions that they take."""
        ...


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """Properties of an optimizer, known before it is made.

    Args:
        name: as in train.optimizer.
        has_first_moment: whether it keeps a running sum of its gradients.
        moments: how it keeps its moments: `entries`: each shaped like its parameter; `factored`: by rows and columns;
            `packed`: in 8 bits; `none`: it keeps none.
        averages_weights: whether an average of the weights of past steps is evaluated, and not those of the last step.
    """

    name: str
    has_first_moment: bool
    moments: str
    averages_weights: bool


@runtime_checkable
class FitsEveryModel(Protocol):
    """An optional part of Method: with some settings, it works with every model."""

    @property
    def fits_every_model(self) -> bool:
        """Whether it does with its settings; then it is not tried without weights before a run starts."""
        ...


def fits_every_model(method: object) -> bool:
    """Return whether a method's own class says that it works with every model; one that inherits may do more."""
    return "fits_every_model" in vars(type(method)) and cast("FitsEveryModel", method).fits_every_model


@runtime_checkable
class FitsOptimizers(Protocol):
    """An optional part of Method: it does not work with every optimizer."""

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence for each setting that the optimizer can't follow; called when a run is planned."""
        ...


@runtime_checkable
class FitsSharding(Protocol):
    """An optional part of Method: some of its settings need parameters that are whole on each worker."""

    def faults_when_sharded(self) -> list[str]:
        """Return a clause for each such setting, which says what it needs; called when a sharded run is planned."""
        ...


ParameterGroup = dict[str, Any]
"""An optimizer's group: `params`, a list of parameters, and their settings `lr`, `weight_decay`, `betas` and `eps`."""


@runtime_checkable
class MakesGroups(Protocol):
    """An optional part of Method: it gives parameters different settings of train.optimizer."""

    def groups(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Return the groups that the optimizer of `train` is made with; called on every worker.

        Args:
            model: to be trained.
            groups: the groups without the method: the parameters that train with weight decay, and those without.

        Returns:
            Groups that hold each of these parameters once. A group's `lr` is its peak, which the schedule scales.
        """
        ...


@runtime_checkable
class MakesOptimizer(Protocol):
    """An optional part of Method: it makes an optimizer of its own instead of train.optimizer.

    Where the settings of a method decide whether it does, its attribute `makes_optimizer` says so.
    """

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return a torch optimizer over these parameters; its state_dict must hold all its state.

        Args:
            model: to be trained.
            groups: as for `MakesGroups`, with all settings of AdamW, so that `torch.optim.AdamW(groups)` works.
        """
        ...


def maker_of_optimizer(method: object) -> MakesOptimizer | None:
    """Return a method that makes its own optimizer; None for another one."""
    makes_one = isinstance(method, MakesOptimizer) and bool(getattr(method, "makes_optimizer", True))
    return cast("MakesOptimizer", method) if makes_one else None


@runtime_checkable
class ClipsGradients(Protocol):
    """An optional part of the optimizer that a method makes: it holds gradients elsewhere than in `parameter.grad`."""

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gradients of a step so that their norm is at most `max_norm`, in place; return the norm before.

        Called once in each step, when all its micro-batches are through; with infinity where nothing is clipped.
        """
        ...


@runtime_checkable
class FitsWorkers(Protocol):
    """An optional part of Method: some of its settings need a single worker."""

    def faults_with_workers(self, num_workers: int) -> list[str]:
        """Return a sentence for each setting that can't hold; called when a run on several workers is planned."""
        ...


@runtime_checkable
class ReadsMicroBatches(Protocol):
    """An optional part of Method: what trains depends on how a step is cut into micro-batches."""

    @property
    def reads_micro_batches(self) -> bool:
        """Whether it does with its settings; then a run is never cut into smaller ones where memory is short."""
        ...


LossTerm = Callable[[Mapping[str, Any]], "Tensor"]
"""Computes a batch's term: a scalar, a mean over the batch's labelled tokens or a function of the weights alone."""


@runtime_checkable
class AddsLoss(Protocol):
    """An optional part of Method: it adds a term to the loss."""

    def loss_term(self, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]) -> LossTerm:
        """Return the function that computes each mini-batch's term, after its loss; called on every worker.

        Called before the first step. A term is weighted by its batch's share of the labelled tokens of the optimizer
        step (with DPO, of the examples). So the terms of a step add up to a mean over its tokens, or to a function of
        the weights, however the step is cut into batches.

        Args:
            model: to be trained, on its device. Its weights may change before the first step: a resumed training loads
                those of its checkpoint.
            base: makes the model as it was before any training, on the CPU.
        """
        ...


@runtime_checkable
class TrainsInPhases(Protocol):
    """An optional part of Method: it trains several times, each with an optimizer and a schedule of its own.

    The method's own `attach` is called only for a phase whose method is the method itself.
    """

    @property
    def num_phases(self) -> int:
        """Number of trainings, at least 1; each takes train.num_epochs."""
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

        Called on every worker, for a new phase and for a resumed one. The weights that it sets must follow from its
        arguments alone and not from the weights in the model: a resumed run has loaded the base's.

        Args:
            number: of the phase, from 0.
            model: to be trained, on its device.
            carried: the tensors that `end_phase` returned for each earlier phase.
            base: makes the model as it was before any training, on the CPU.
        """
        ...

    def end_phase(
        self,
        number: int,
        model: PreTrainedModel,
        carried: Sequence[Mapping[str, Tensor]],
        *,
        base: Callable[[], PreTrainedModel],
    ) -> Mapping[str, Tensor]:
        """Return tensors of a phase, such as a mask, for later ones; called after each phase but the last.

        The arguments are those of `begin_phase`, after the phase has trained the model.
        """
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
        """Return metrics of the last optimizer step; they are logged below `mask/` for a mask, else below `method/`.

        A mask always gives `density` and `mask_seconds`. Facts that take time are given every `facts_every` steps.
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


@runtime_checkable
class CountsEntries(Protocol):
    """An optional part of Attached: a step does not train all entries of the optimizer's parameters."""

    def num_trained(self) -> int:
        """Return how many entries the last step trained."""
        ...

    def num_touched(self) -> int | None:
        """Return how many entries the steps so far have trained, also of earlier attempts; None if it is unknown."""
        ...

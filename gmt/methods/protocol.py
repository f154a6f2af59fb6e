"""The protocol of a method, and its optional parts. Imports no library, so that planning can import it cheaply."""

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

    The constructor's arguments are the settings of the config group `method`, so a study can sweep over each of them.
    The class must be importable without torch: import torch in `attach`.
    """

    @property
    def name(self) -> str:
        """Its name in configs, tables and MLflow."""
        ...

    @property
    def target_density(self) -> float | None:
        """The fraction of entries that a step should update; None if the method sets no such fraction."""
        ...

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Attached:
        """Attach the method to a model and its optimizer, just before training, and return the method at work.

        Before a run starts, a method of this package is attached to a model without weights and detached again, as a
        trial (gmt/training/method_trial.py). A method of another package is attached only in the run's process.

        The method must not add, remove or replace parameters, buffers or modules of the model, nor change the
        optimizer's parameters or what a module computes, here or later: gmt/training/structure.py refuses such changes.
        A method that needs them implements `ReshapesModel`. Every method may change values and `requires_grad`, and add
        hooks on gradients and on the optimizer, and forward hooks that change nothing.

        Args:
            model: the model that will be trained; changed in place.
            optimizer: a torch.optim.Optimizer over its parameters, without another library's wrapper.
            seed: the seed of the method's random draws.
            facts_every: the number of steps between facts that take time; 0 for never.
        """
        ...


@runtime_checkable
class ReshapesModel(Protocol):
    """An optional part of Method: it puts parts into the model, such as adapters, and trains them."""

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Put the parts into the model, in place, before the optimizer, the workers' copies and checkpoints exist.

        Args:
            model: the model on the CPU; before a run starts, also a model without weights on the device `meta`. The
                parameters that require a gradient afterwards are trained.
            seed: the seed of the method's random draws; torch's generator on the CPU has this seed already.

        Raises:
            UserError: the method can't work with this model.
        """
        ...


@runtime_checkable
class ReadsExamples(Protocol):
    """An optional part of ReshapesModel: the initial values of its parts are computed from training examples."""

    @property
    def num_examples(self) -> int:
        """Number of rows of the training data that it reads; with 0, `reshape` is called instead of `reshape_by`."""
        ...

    def reshape_by(
        self, model: PreTrainedModel, *, seed: int, batches: Callable[[int], Iterator[Mapping[str, Any]]]
    ) -> Reshaped:
        """Put the parts into a model with weights; `reshape` is called where only the shape of the model matters.

        Each attempt at a run calls this. Every worker calls it with the same examples, and must get the same parts.

        Args:
            model: the model, on the device that trains it.
            seed: the seed of the method's random draws; torch's generators have this seed already.
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
        """Number of positions that the parts take."""
        ...


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """Properties of an optimizer, known before it is made.

    Args:
        name: as in train.optimizer.
        has_first_moment: whether it keeps a running sum of its gradients.
        moments: the form of its moments: `entries`: shaped like the parameters; `factored`: by rows and columns;
            `packed`: in 8 bits; `none`: no moments.
        averages_weights: whether the evaluated weights are an average over past steps, and not those of the last step.
    """

    name: str
    has_first_moment: bool
    moments: str
    averages_weights: bool


@runtime_checkable
class FitsEveryModel(Protocol):
    """An optional part of Method: with some settings it works with every model."""

    @property
    def fits_every_model(self) -> bool:
        """Whether the method, with its settings, works with every model; then no trial precedes a run."""
        ...


def fits_every_model(method: object) -> bool:
    """Return whether a method's class itself, not a base class, says that it works with every model."""
    return "fits_every_model" in vars(type(method)) and cast("FitsEveryModel", method).fits_every_model


@runtime_checkable
class FitsOptimizers(Protocol):
    """An optional part of Method: it does not work with every optimizer."""

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence for each setting that does not work with the optimizer; called when a run is planned."""
        ...


@runtime_checkable
class FitsSharding(Protocol):
    """An optional part of Method: some of its settings need whole parameters on each worker."""

    def faults_when_sharded(self) -> list[str]:
        """Return a clause on each setting that needs whole parameters, e.g. "method NAME, which ..."; for a plan."""
        ...


ParameterGroup = dict[str, Any]
"""An optimizer's group: `params`, a list of parameters, and their settings `lr`, `weight_decay`, `betas` and `eps`."""


@runtime_checkable
class MakesGroups(Protocol):
    """An optional part of Method: it gives parameters different settings of train.optimizer."""

    def groups(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Return the parameter groups for train.optimizer; called on every worker.

        Args:
            model: the model that will be trained.
            groups: the groups without the method: the parameters that train with weight decay, and those without.

        Returns:
            Groups that hold each of these parameters once. A group's `lr` is its peak, which the schedule scales.
        """
        ...


@runtime_checkable
class MakesOptimizer(Protocol):
    """An optional part of Method: it makes its own optimizer, which replaces train.optimizer.

    A method that makes one only with some settings has an attribute `makes_optimizer`, which says whether it does.
    """

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return a torch optimizer over these parameters; its state_dict must hold all its state.

        Args:
            model: the model that will be trained.
            groups: as for `MakesGroups`, with all settings of AdamW, so that `torch.optim.AdamW(groups)` works.
        """
        ...


def maker_of_optimizer(method: object) -> MakesOptimizer | None:
    """Return the method if it makes its own optimizer; None otherwise."""
    makes_one = isinstance(method, MakesOptimizer) and bool(getattr(method, "makes_optimizer", True))
    return cast("MakesOptimizer", method) if makes_one else None


@runtime_checkable
class ClipsGradients(Protocol):
    """An optional part of the optimizer that a method makes: it stores gradients elsewhere than in `parameter.grad`."""

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale the gradients of a step in place so that their norm is at most `max_norm`; return the norm before.

        Called once in each step, after all its micro-batches; `max_norm` is infinity if nothing is clipped.
        """
        ...


@runtime_checkable
class FitsWorkers(Protocol):
    """An optional part of Method: some of its settings need a single worker."""

    def faults_with_workers(self, num_workers: int) -> list[str]:
        """Return a sentence for each setting that needs a single worker; called when a run on several is planned."""
        ...


@runtime_checkable
class ReadsMicroBatches(Protocol):
    """An optional part of Method: the trained entries depend on how a step is cut into micro-batches."""

    @property
    def reads_micro_batches(self) -> bool:
        """Whether this holds with the method's settings; then a run never reduces its micro-batches to save memory."""
        ...


LossTerm = Callable[[Mapping[str, Any]], "Tensor"]
"""Computes the loss term of a batch, a scalar: a mean over its labelled tokens, or a function of the weights alone."""


@runtime_checkable
class AddsLoss(Protocol):
    """An optional part of Method: it adds a term to the loss."""

    def loss_term(self, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]) -> LossTerm:
        """Return the function that computes each mini-batch's term, after its loss; called on every worker.

        Called before the first step. A term is weighted by its batch's share of the labelled tokens of the optimizer
        step (with DPO, of the examples). So the terms of a step add up to a mean over its tokens, or to a function of
        the weights, however the step is cut into batches.

        Args:
            model: the model that will be trained, on its device. Its weights may change before the first step, since a
                resumed training loads those of its checkpoint.
            base: returns the model as it was before any training, on the CPU.
        """
        ...


@runtime_checkable
class TrainsInPhases(Protocol):
    """An optional part of Method: it trains several times, each time with a new optimizer and schedule.

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
        """Set the initial weights of a phase, in place, and return the method that trains it.

        Called on every worker, for a new phase and for a resumed one. The weights must follow from the arguments alone
        and not from the weights in the model, since a resumed run has loaded the base's.

        Args:
            number: the number of the phase, from 0.
            model: the model that will be trained, on its device.
            carried: the tensors that `end_phase` returned for each earlier phase.
            base: returns the model as it was before any training, on the CPU.
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
        """Return tensors of a phase, such as a mask, for later phases; called after each phase except the last.

        The arguments are those of `begin_phase`, after the phase has trained the model.
        """
        ...


class Attached(Protocol):
    """A method at work in one training."""

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch; called before each epoch, and again for the epoch in which a resumed training continues.

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
        """Return the state that a checkpoint must hold: plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state, whose tensors are on the CPU."""
        ...

    def detach(self) -> None:
        """Remove every trace of the method from model and optimizer."""
        ...


@runtime_checkable
class CountsEntries(Protocol):
    """An optional part of Attached: a step does not train all entries of the optimizer's parameters."""

    def num_trained(self) -> int:
        """Return how many entries the last step trained."""
        ...

    def num_touched(self) -> int | None:
        """Return how many entries the steps so far have trained, over all attempts at the run; None if unknown."""
        ...

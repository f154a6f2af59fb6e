"""The settings of a training, the config group `train`, which enter the run id. Imports no torch."""

from dataclasses import dataclass, replace

from gmt import settings
from gmt.errors import UserError
from gmt.training.optimizers import OPTIMIZERS

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")
PRECISIONS = ("fp32", "bf16")
PARADIGMS = ("sft", "dpo")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained; each value lives in a yaml under conf/train.

    Args:
        name: the name of these settings in tables.
        paradigm: `sft`: the model learns completions; `dpo`: it learns which of two answers is preferred (Rafailov et
            al., 2023).
        dpo_beta: DPO's beta, which holds the model close to the base; null for sft.
        packing: whether several examples share a row of at most max_length tokens, without attending to each other; sft
            only.
        num_epochs: the number of passes over the training examples.
        micro_batch_size: the number of examples in one forward and backward pass.
        accumulation_steps: the number of micro-batches whose gradients are averaged before one masked optimizer step
            (the paper's N).
        optimizer: adamw; sgd; adafactor (Shazeer and Stern, arXiv 1804.04235; as torch has it, the learning rate is the
            largest relative step); muon (gmt/optimizers/muon.py); lion (Chen et al., 2302.06675); schedulefree (Defazio
            et al., 2405.15682; AdamW's); adamw_8bit (Dettmers et al., 2110.02861).
        momentum: the momentum of sgd and muon, in [0, 1); null for the others.
        learning_rate: the peak learning rate.
        schedule: the learning rate after the warm-up, in which it rises from 0: it is constant (constant_with_warmup),
            or falls to 0 along a line (linear) or half a cosine (cosine). constant has no warm-up.
        warmup_ratio: the fraction of the steps in which the rate rises, in [0, 1), rounded up to whole steps; 0 for
            constant, unless the optimizer is schedulefree, which has a warm-up of its own.
        weight_decay: the weight decay, not applied to norms and biases; decoupled from the gradient, except with sgd,
            which adds it to the gradient.
        adam_beta1, adam_beta2: the decay rates of the moments of AdamW and lion, in [0, 1); muon uses them for the
            parameters that AdamW trains. No effect with sgd and adafactor, see `without_effect`.
        max_grad_norm: the norm to which gradients are clipped before they are masked; 0: no clipping.
        precision: fp32, or bf16 autocast; model.dtype sets the dtype of the weights.
        max_length: the most tokens of a prompt and its completion; longer examples are dropped and counted.
    """

    name: str
    paradigm: str
    dpo_beta: float | None
    packing: bool
    num_epochs: int
    micro_batch_size: int
    accumulation_steps: int
    learning_rate: float
    schedule: str
    warmup_ratio: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    max_grad_norm: float
    precision: str
    max_length: int
    optimizer: str = settings.neutral("adamw")
    momentum: float | None = settings.neutral(None)

    def __post_init__(self) -> None:
        settings.text("train.name", self.name)
        settings.one_of("train.paradigm", self.paradigm, PARADIGMS)
        settings.boolean("train.packing", self.packing)
        if self.paradigm == "dpo":
            settings.number("train.dpo_beta", self.dpo_beta, "must be above 0", low=0, open_low=True)
            if self.packing:
                raise UserError("train.packing must be false where train.paradigm=dpo, got true")
        elif self.dpo_beta is not None:
            raise UserError(f"train.dpo_beta must be null where train.paradigm=sft, got {self.dpo_beta}")
        for name in ("num_epochs", "micro_batch_size", "accumulation_steps"):
            settings.integer(f"train.{name}", getattr(self, name), low=1)
        settings.integer("train.max_length", self.max_length, low=2)
        settings.number("train.learning_rate", self.learning_rate, "must be above 0", low=0, open_low=True)
        settings.one_of("train.schedule", self.schedule, SCHEDULES)
        for name in ("warmup_ratio", "adam_beta1", "adam_beta2"):
            settings.number(f"train.{name}", getattr(self, name), "must lie in [0, 1)", low=0, high=1)
        for name in ("weight_decay", "max_grad_norm"):
            settings.number(f"train.{name}", getattr(self, name), "must be at least 0", low=0)
        settings.one_of("train.precision", self.precision, PRECISIONS)
        self._check_optimizer()
        if self.schedule == "constant" and self.warmup_ratio and not OPTIMIZERS[self.optimizer].averages_weights:
            raise UserError(
                "train.warmup_ratio must be 0 where train.schedule=constant, which has no warm-up "
                f"(train.schedule=constant_with_warmup has one), got {self.warmup_ratio}"
            )

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The names of the settings that have no effect with this optimizer."""
        return () if OPTIMIZERS[self.optimizer].has_betas else ("adam_beta1", "adam_beta2")

    def _check_optimizer(self) -> None:
        settings.one_of("train.optimizer", self.optimizer, tuple(OPTIMIZERS))
        if OPTIMIZERS[self.optimizer].has_momentum:
            rule = f"must lie in [0, 1) where train.optimizer={self.optimizer}"
            settings.number("train.momentum", self.momentum, rule, low=0, high=1)
        elif self.momentum is not None:
            raise UserError(f"train.momentum must be null where train.optimizer={self.optimizer}, got {self.momentum}")
        if OPTIMIZERS[self.optimizer].averages_weights:
            if self.schedule != "constant":
                raise UserError(
                    f"train.schedule must be constant where train.optimizer={self.optimizer}, whose average replaces "
                    f"a schedule after the warm-up, got {self.schedule}"
                )
            if not self.adam_beta1:
                raise UserError(f"train.adam_beta1 must be above 0 where train.optimizer={self.optimizer}, got 0")

    def with_smaller_micro_batches(self) -> "TrainSettings":
        """Return settings with the same examples in each optimizer step, in the next smaller equal micro-batches."""
        size = self.micro_batch_size
        factor = next(p for p in range(2, size + 1) if size % p == 0)
        return replace(self, micro_batch_size=size // factor, accumulation_steps=self.accumulation_steps * factor)

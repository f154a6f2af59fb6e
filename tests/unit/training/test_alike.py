"""A training whose model can't run as it is set is refused in one sentence, by every worker."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import Run, build
from gmt.runs.prepare import prepare
from gmt.runs.train import train_run
from gmt.training import alike
from gmt.training.alike import check_steps, check_steps_together
from gmt.training.control import Control
from gmt.training.reshaping import Reshaping
from tests.conftest import CONF
from tests.processes import in_ranks


def the_run(root: Path) -> Run:
    with hydra_on(CONF):
        return build(Composer().compose_plain(["task=tiny", "method=sft", f"record.root={root}"]))


def check(check: Callable[..., None], model: PreTrainedModel, run: Run) -> None:
    prepared = prepare(run)
    check(model, prepared.reader.tokenizer, prepared.examples, run.train)


def only_on_a_gpu(*_: Any, **__: Any) -> Any:
    raise RuntimeError("FlashAttention only supports\nCUDA tensors")


def on_a_gpu_only(model: PreTrainedModel) -> PreTrainedModel:
    """The model with an attention that does not run on the CPU."""
    ALL_ATTENTION_FUNCTIONS.register("only_on_a_gpu", only_on_a_gpu)
    model.config._attn_implementation = "only_on_a_gpu"
    return model


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    alike._KNOWN.clear()
    yield
    alike._KNOWN.clear()


def test_a_forward_pass_that_fails_is_a_sentence(tmp_path: Path) -> None:
    run = the_run(tmp_path)
    with pytest.raises(UserError) as refusal:
        check(check_steps, on_a_gpu_only(run.model.load_model()), run)
    (sentence,) = refusal.value.sentences
    assert sentence.startswith("model.path and model.attention must name a model whose forward pass works on cpu, ")
    assert sentence.endswith("RuntimeError: FlashAttention only supports CUDA tensors")


def test_a_fault_of_the_machine_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = the_run(tmp_path)
    model = run.model.load_model()

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(type(model), "forward", broken)
    with pytest.raises(OSError, match="Input/output error"):
        check(check_steps, model, run)


def work(root: Path) -> None:
    """One of two workers; the model of the second can't run where it lies."""
    run, rank = the_run(root), torch.distributed.get_rank()
    model = run.model.load_model()
    check(check_steps_together, on_a_gpu_only(model) if rank else model, run)  # the first finds nothing to refuse
    alike._KNOWN.clear()
    model = run.model.load_model()
    with pytest.raises(UserError, match=r"^model\.path and model\.attention must name"):
        train_run(
            run,
            prepare(run),
            model if rank else on_a_gpu_only(model),
            Reshaping(run.method, model, seed=1),
            run.train,
            "cpu",
            control=Control(),
            evaluate=lambda step: 0.0,
            on_metrics=lambda step, metrics: None,
        )


@pytest.mark.heavy
def test_the_first_worker_checks_for_all_and_all_refuse(tmp_path: Path) -> None:
    assert in_ranks(work, 2, tmp_path) == [0, 0]

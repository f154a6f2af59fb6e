"""Settings of an optimizer, or of a method with it, that can't work are refused when a run is planned."""

import itertools
from pathlib import Path

import pytest

from gmt.errors import UserError
from gmt.masking import MaskSpec, attach
from gmt.masking.spec import MASK_ON, MOMENTS
from gmt.methods.gradient_mask import GradientMask
from gmt.runs.prepare import prepare
from gmt.training import optimizers
from gmt.training.optimizers import OPTIMIZERS, facts_of, make_optimizer
from tests.integration.test_prepare import run_of
from tests.refusals import assert_refused
from tests.unit.training.test_optimizers import GMT, SFT, batch_loss, for_each_optimizer, groups_of, tiny_model

pytestmark = pytest.mark.heavy


def refusal_of_engine(name: str, momentum: float | None, spec: MaskSpec) -> bool:
    """Whether the mask itself refuses, when it attaches or at its first step."""
    model = tiny_model()
    model.resize_token_embeddings(300)  # 4800 entries: below 4096 nothing is packed
    made = make_optimizer(SFT, model, groups_of(model), name=name, momentum=momentum)
    getattr(made, "train", lambda: None)()
    try:
        attach(model, made, spec)
        batch_loss(model).backward()
        made.step()
    except ValueError:
        return True
    return False


@for_each_optimizer()
def test_what_a_mask_refuses_of_an_optimizer_is_refused_when_a_run_is_planned(name: str) -> None:
    for given in (0.0, 0.9) if OPTIMIZERS[name].has_momentum else (None,):
        assert_same_refusals(name, given)


def assert_same_refusals(name: str, momentum: float | None) -> None:
    for signal, mask_on, how in itertools.product(("gradient", "first_moment"), MASK_ON, MOMENTS):
        chosen = {"signal": signal, "mask_on": mask_on, "moments": how}
        method = GradientMask(**GMT | chosen)
        planned = bool(method.faults_with(facts_of(name, momentum)))
        assert planned == refusal_of_engine(name, momentum, method.spec()), chosen


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.optimizer=adam"], r"train\.optimizer must be one of adamw, sgd, .*, got 'adam'"),
        (["train.optimizer=sgd"], r"train\.momentum must lie in \[0, 1\) where train\.optimizer=sgd, got None"),
        (["train.momentum=0.9"], r"train\.momentum must be null where train\.optimizer=adamw, got 0\.9"),
        (["train.optimizer=schedulefree"], r"train\.schedule must be constant where train\.optimizer=schedulefree"),
        (
            ["train.optimizer=schedulefree", "train.schedule=constant", "train.adam_beta1=0"],
            r"train\.adam_beta1 must be above 0 where train\.optimizer=schedulefree",
        ),
        (
            ["train.optimizer=muon", "train.momentum=0.9", "resources.sharding=fsdp", "resources.workers=2"],
            r"resources\.sharding must be none for train\.optimizer=muon, got fsdp",
        ),
        (
            ["method=cautious", "resources.sharding=fsdp", "resources.workers=2"],
            r"resources\.sharding must be none for method cautious with its own optimizer, got fsdp",
        ),
        (
            ["method=sift", "method.moments=packed", "resources.workers=2"],
            r"resources\.workers must be 1 where method\.moments=packed.*, got 2",
        ),
        (
            ["method=sift", "method.moments=packed", "train.optimizer=adafactor"],
            r"train\.optimizer must be adamw for method sift, which makes an optimizer of its own",
        ),
        (["method=gmt", "method.moments=packed"], r"method\.mask_on must be update where moments=packed"),
        (["method=sift", "method.age=own"], r"method\.age must be global where method\.moments=masked, got 'own'"),
        (
            ["method=sift", "method.moments=packed", "method.age=own"],
            r"method\.age must be global where method\.refresh=once: no entry joins later, got 'own'",
        ),
        (
            ["method=cautious", "train.optimizer=adafactor"],
            r"train\.optimizer must be adamw.* for method cautious, which makes an optimizer of its own, got adafactor",
        ),
        (
            ["method=gmt", "method.moments=masked", "train.optimizer=adafactor"],
            r"method\.moments must be dense where train\.optimizer=adafactor, which keeps its moments by rows",
        ),
        (
            ["method=gmt_update", "train.optimizer=schedulefree", "train.schedule=constant"],
            r"method\.mask_on must be gradient where train\.optimizer=schedulefree.*, got update",
        ),
        (["method=layerwise", "method.rate_decay=0"], r"method\.rate_decay must lie in \(0, 1\], got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused_when_a_run_is_planned(overrides: list[str], sentence: str) -> None:
    assert_refused(sentence, *overrides)


def test_an_optimizer_that_is_not_installed_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"train\.optimizer=lion needs the package pytorch_optimizer, which is not"):
        prepare(run_of(Path("unused"), "train.optimizer=lion"))

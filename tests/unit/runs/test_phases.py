"""A stopped training goes on in its phase, to the same bits; LT-SFT trains the entries that moved most."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmt.errors import Interrupted, UserError
from gmt.methods.lt_sft import LotteryTicket, largest
from gmt.runs.build import Run
from gmt.runs.phases import num_steps_done
from gmt.runs.prepare import prepare
from gmt.runs.train import reshaped, train_run
from gmt.training.control import Control
from tests.integration.test_prepare import run_of
from tests.refusals import assert_refused
from tests.unit.training.test_optimizers import assert_same, tiny_model

pytestmark = pytest.mark.heavy

RATIO = 0.8
STEPS = 5  # of a phase


class Tiny:
    """A model plug-in, as far as a training needs it."""

    def load_model(self) -> Any:
        return tiny_model()


def a_run(root: Path, *overrides: str) -> Run:
    steps = ["task.train.words.num_examples=20", "train.micro_batch_size=4", "train.accumulation_steps=1"]
    return run_of(root, *steps, "train.weight_decay=0.1", "record.checkpoint_every=2", "record.log_every=1", *overrides)


def trained(run: Run, *, stop_at: int | None = None) -> tuple[dict[str, Tensor], Any, list[int]]:
    """Return the weights, the facts, and the logged steps."""
    torch.set_num_threads(1)
    model, prepared, logged, calls = tiny_model(), prepare(run), [], itertools.count(1)

    def should_stop() -> bool:
        return next(calls) == stop_at

    facts = train_run(
        dataclasses.replace(run, model=Tiny()),  # type: ignore[arg-type]
        prepared,
        model,
        reshaped(run, prepared, model, "cpu"),
        run.train,
        "cpu",
        control=Control(should_stop=should_stop),
        evaluate=lambda step: 0.0,
        on_metrics=lambda step, metrics: logged.append(step),
    )
    return {name: p.detach().clone() for name, p in model.named_parameters()}, facts, logged


def lt_sft(root: Path, ratio: float = RATIO) -> Run:
    return a_run(root, "method=lt_sft", f"method.mask_ratio={ratio}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Any, list[int]]:
    return trained(lt_sft(tmp_path_factory.mktemp("whole")))


def test_the_entries_that_moved_most_in_plain_training_train_and_no_others(whole: Any, tmp_path: Path) -> None:
    weights, facts, logged = whole
    start = dict(tiny_model().named_parameters())
    plain, _, _ = trained(a_run(tmp_path, "method=sft"))
    moves = torch.cat([(plain[name] - start[name]).abs().flatten() for name in plain]).detach()
    num_kept = len(moves) - int(RATIO * len(moves))
    support = torch.zeros(len(moves), dtype=torch.bool)
    support[moves.argsort(descending=True, stable=True)[:num_kept]] = True
    moved = torch.cat([(weights[name] != start[name]).flatten() for name in weights])
    assert not bool((moved & ~support).any())  # weight decay or not
    assert moved.sum() > 0.99 * num_kept
    assert (facts.num_steps, logged) == (2 * STEPS, list(range(1, 2 * STEPS + 1)))
    assert facts.density == pytest.approx((1 + num_kept / len(moves)) / 2)


@pytest.mark.parametrize(("stop_at", "steps"), [(3, 3), (STEPS + 3, STEPS + 3)])
def test_a_stopped_training_goes_on_in_its_phase_to_the_same_bits(
    stop_at: int, steps: int, whole: Any, tmp_path: Path
) -> None:
    run = lt_sft(tmp_path)
    with pytest.raises(Interrupted):
        trained(run, stop_at=stop_at)
    assert num_steps_done(run.method, run.record.checkpoints) == steps
    weights, facts, logged = trained(run)
    assert_same(weights, whole[0])
    assert logged == list(range(steps + 1, 2 * STEPS + 1))
    assert (facts.num_steps, facts.num_tokens, facts.density) == (
        whole[1].num_steps,
        whole[1].num_tokens,
        whole[1].density,
    )


def test_a_training_that_died_between_two_phases_goes_on_to_the_same_bits(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lt_sft(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("gmt.runs.phases.load_file", _die)
        with pytest.raises(ZeroDivisionError):
            trained(run)
    assert num_steps_done(run.method, run.record.checkpoints) == STEPS
    assert not list(run.record.checkpoints.glob("*/checkpoint-*"))
    assert_same(trained(run)[0], whole[0])


def _die(_: Path) -> None:
    raise ZeroDivisionError


def test_without_a_mask_the_second_phase_is_plain_training_bit_for_bit(tmp_path: Path) -> None:
    assert_same(trained(lt_sft(tmp_path / "a", 0))[0], trained(a_run(tmp_path / "b", "method=sft"))[0])


def test_two_iterations_choose_as_many_entries_as_one_and_begin_where_the_first_ended(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of one step, so that what each phase does can be followed."""
    phases: list[dict[str, Tensor]] = []
    begin = LotteryTicket.begin_phase

    def watched(self: LotteryTicket, number: int, model: Any, carried: Any, *, base: Any) -> Any:
        phases.append({name: p.detach().clone() for name, p in model.named_parameters()})  # as the last phase left it
        method = begin(self, number, model, carried, base=base)
        phases.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return method

    monkeypatch.setattr(LotteryTicket, "begin_phase", watched)
    run = a_run(tmp_path, "method=lt_sft", f"method.mask_ratio={RATIO}", "method.num_iterations=2")
    weights, facts, _ = trained(run)
    (start, begun0, dense0, begun1, sparse1, begun2, dense2, begun3), end = phases, weights
    assert_same(begun0, start)
    assert_same(begun1, start)
    assert_same(begun2, sparse1)
    assert_same(begun3, sparse1)
    num_entries = sum(p.numel() for p in start.values())
    num_kept = num_entries - int(RATIO * num_entries)
    first = support(dense0, start, num_kept // 2)
    second = support(dense2, start, num_kept - num_kept // 2, without=first)
    assert int(first.sum()) + int(second.sum()) == num_kept
    assert not bool((moved(sparse1, start) & ~first).any())
    assert not bool((moved(end, start) & ~(first | second)).any())
    assert moved(end, sparse1)[second].float().mean() > 0.98
    assert facts.num_steps == 4 * STEPS
    assert facts.density == pytest.approx((2 + 1.5 * num_kept / num_entries) / 4, rel=1e-4)


@pytest.mark.parametrize(("scope", "most"), [("global", 10), ("tensor", 6)])
def test_an_iteration_that_would_choose_nothing_is_refused_before_the_training(scope: str, most: int) -> None:
    def attach(num_iterations: int) -> None:
        model = torch.nn.Linear(10, 6)  # 66 entries
        given: Any = {"name": "lt_sft", "mask_ratio": 0.85 if scope == "global" else 0.9, "exclude": []}
        method = LotteryTicket(scope=scope, num_iterations=num_iterations, **given)
        method.attach(model, torch.optim.AdamW(model.parameters()), seed=1, facts_every=0)

    attach(most)
    with pytest.raises(UserError, match=rf"method\.num_iterations must be at most {most}, .*, got {most + 1}"):
        attach(most + 1)


def moved(after: dict[str, Tensor], before: dict[str, Tensor]) -> Tensor:
    return torch.cat([(after[name] != before[name]).flatten() for name in before])


def support(
    after: dict[str, Tensor], before: dict[str, Tensor], num_kept: int, *, without: Tensor | None = None
) -> Tensor:
    """Return the entries that moved farthest, by a full sort."""
    moves = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    if without is not None:
        moves[without] = 0
    chosen = torch.zeros(len(moves), dtype=torch.bool)
    chosen[moves.argsort(descending=True, stable=True)[:num_kept]] = True
    return chosen


@pytest.mark.slow
def test_a_training_that_stopped_in_a_later_iteration_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    arms = ("method=lt_sft", f"method.mask_ratio={RATIO}", "method.num_iterations=2")
    unbroken, stopped = a_run(tmp_path / "a", *arms), a_run(tmp_path / "b", *arms)
    with pytest.raises(Interrupted):
        trained(stopped, stop_at=3 * STEPS + 2)
    assert_same(trained(stopped)[0], trained(unbroken)[0])


def test_lota_moves_weights_of_linear_layers_alone_and_as_many_of_them_as_the_ratio_says(tmp_path: Path) -> None:
    start = dict(tiny_model().named_parameters())
    weights, _, _ = trained(a_run(tmp_path, "method=lota"))
    linear = {name for name in start if name.endswith("_proj.weight")}
    num_moved = {name: int((weights[name] != start[name]).sum()) for name in start}
    assert all(not num_moved[name] for name in start if name not in linear)
    num_entries = sum(start[name].numel() for name in linear)
    num_kept = num_entries - int(0.9 * num_entries)
    assert 0.98 * num_kept < sum(num_moved.values()) <= num_kept


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
def test_as_many_entries_train_as_the_ratio_says_the_first_of_ties_and_never_a_zero(ratio: float) -> None:
    moves = [torch.tensor([1.0, -2.0, 0.0, 2.0]), torch.tensor([2.0, -1.0, 3.0, 2.0, 0.0, 2.0])]
    everything = torch.cat(moves)
    num_kept = min(10 - int(ratio * 10), 8)
    expected = torch.zeros(10, dtype=torch.bool)
    expected[everything.abs().argsort(descending=True, stable=True)[:num_kept]] = True
    assert torch.cat(largest(moves, 10 - int(ratio * 10))).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["resources.sharding=fsdp", "resources.workers=2"],
            r"resources\.sharding must be none for method lt_sft, which trains in phases, got fsdp",
        ),
        (
            ["search=asha", "record.evaluate_every=1"],
            r"search must be null for method lt_sft, which trains in phases, .*, got Asha",
        ),
        (["method.mask_ratio=1"], r"method\.mask_ratio must lie in \[0, 1\), got 1"),
        (["method.num_iterations=0"], r"method\.num_iterations must be a whole number of at least 1, got 0"),
        (["method.parameters=norms"], r"method\.parameters must be one of all, linear_alone, got 'norms'"),
        (["method.scope=layer"], r"method\.scope must be one of tensor, global, got 'layer'"),
        (
            ["train.optimizer=schedulefree", "train.schedule=constant"],
            r"train\.optimizer must not be schedulefree for method lt_sft",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_when_a_run_is_planned(overrides: list[str], sentence: str) -> None:
    assert_refused(sentence, "method=lt_sft", *overrides)

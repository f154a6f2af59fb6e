"""Sums over what linear layers read and write: in training passes, without padding, over batches and workers."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from gmt.masking import Mask, MaskSpec, attach
from gmt.masking.packing import unpack
from tests.processes import in_ranks

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def tiny_llama(*, dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, attention_dropout=dropout, **sizes)).train()


def rows() -> dict[str, Tensor]:
    """Eight rows of three to ten tokens, padded on the right."""
    tokens = torch.randint(20, (8, 10), generator=torch.Generator().manual_seed(1))
    attention_mask = (torch.arange(10)[None] < torch.arange(3, 11)[:, None]).long()
    return {"input_ids": tokens, "attention_mask": attention_mask}


def masked(model: nn.Module, signal: str, **settings: Any) -> tuple[torch.optim.Optimizer, Mask]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"mask_ratio": 0.7, "parameters": "linear", "mask_on": "update", "refresh": "once"} | settings
    source = settings.pop("source", None)
    grain = settings.pop("grain", "row" if signal == "output_magnitude" else "entry")
    return optimizer, attach(model, optimizer, MaskSpec(signal=signal, grain=grain, **settings), source=source)


def backward(model: nn.Module, batch: dict[str, Tensor]) -> None:
    model(**batch, labels=batch["input_ids"]).loss.backward()


def parts(num: int) -> list[dict[str, Tensor]]:
    whole = rows()
    chunks = zip(whole["input_ids"].chunk(num), whole["attention_mask"].chunk(num), strict=True)
    return [{"input_ids": ids, "attention_mask": mask} for ids, mask in chunks]


def chosen(mask: Mask) -> dict[str, Tensor]:
    return mask.state_dict()["masks"]


def by_hand(signal: str) -> dict[str, Tensor]:
    """The sums over single rows that were cut to their length, so that there is no padding at all."""
    model, sums = tiny_llama(), {}

    def look(name: str, x: Tensor, y: Tensor) -> None:
        values = x[0].double().square() if signal == "weight_times_input" else y[0].double().abs()
        sums[name] = sums.get(name, 0) + values.sum(0)

    for name, module in model.named_modules():
        if name.endswith(NAMES):
            module.register_forward_hook(lambda _, x, y, name=f"{name}.weight": look(name, x[0].detach(), y.detach()))
    for ids, mask in zip(*rows().values(), strict=True):
        model(input_ids=ids[: int(mask.sum())][None])
    return sums


@pytest.mark.parametrize("signal", ["weight_times_input", "output_magnitude"])
@pytest.mark.parametrize("num_batches", [1, 4])
def test_what_is_kept_follows_from_a_sum_by_hand_without_padding(signal: str, num_batches: int) -> None:
    model = tiny_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, mask = masked(model, signal)
    for batch in parts(num_batches):
        backward(model, batch)
    optimizer.step()
    for name, sum_F in by_hand(signal).items():
        weight = before[name]
        kept = unpack(chosen(mask)[name], weight.numel()).view(weight.shape)
        if signal == "weight_times_input":
            scores = weight.abs() * sum_F.sqrt().float()
            expected = scores >= scores.flatten().sort().values[math.floor(0.7 * scores.numel())]
        else:
            expected = sum_F >= sum_F.sort().values[math.floor(0.7 * len(sum_F))]
            assert expected.sum() == math.ceil(0.3 * len(sum_F) - 1e-9)  # of the paper's quantile
            expected = expected[:, None].expand_as(kept)
        assert torch.equal(kept, expected), name
        assert torch.equal(model.get_parameter(name)[~kept], weight[~kept])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_pass_that_checkpointing_does_again_counts_once(use_reentrant: bool) -> None:
    states = []
    for is_checkpointed in (False, True):
        model = tiny_llama()
        if is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        optimizer, mask = masked(model, "weight_times_input", refresh=2)
        backward(model, rows())
        optimizer.step()
        backward(model, rows())
        states.append(mask._activations._since_step_F)  # type: ignore[union-attr]
    for name, sum_F in states[0].items():
        assert torch.allclose(sum_F, states[1][name], rtol=1e-6), name


def test_passes_outside_training_do_not_count() -> None:
    masks = []
    for others in (False, True):
        model = tiny_llama()
        optimizer, mask = masked(model, "weight_times_input")
        if others:
            other = {"input_ids": torch.zeros(2, 9, dtype=torch.long)}
            with torch.no_grad():
                model(**other)
            model.eval()(**other)
            model.train()
        backward(model, rows())
        optimizer.step()
        masks.append(chosen(mask))
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_a_batch_without_labels_does_not_count() -> None:
    """With several workers a blank fills up the last step: one token without a label (gmt/training/batches.py)."""
    masks = []
    for with_blank in (False, True):
        model = tiny_llama()
        optimizer, mask = masked(model, "weight_times_input")
        backward(model, rows())
        if with_blank:
            one = torch.ones(1, 1, dtype=torch.long)
            model(input_ids=0 * one, labels=-100 * one, attention_mask=one)
        masks.append({name: sums_F.clone() for name, sums_F in mask._activations._since_step_F.items()})  # type: ignore[union-attr]
        optimizer.step()
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_sums_begin_anew_with_each_mask_and_go_through_a_checkpoint() -> None:
    first, second, third = parts(8)[:3]

    def trained(resume_after: int | None) -> list[dict[str, Tensor]]:
        model, seen = tiny_llama(), []
        optimizer, mask = masked(model, "weight_times_input", refresh=2)
        optimizer.param_groups[0]["lr"] = 0.0  # so that only the sums decide
        for step, batch in enumerate([first, second, third]):
            backward(model, batch)
            optimizer.step()
            seen.append(chosen(mask))
            if step == resume_after:
                state = mask.state_dict()
                mask.detach()
                mask = attach(model, optimizer, mask.spec)
                mask.load_state_dict(state)
        return seen

    whole = trained(None)
    assert all(torch.equal(whole[0][name], whole[1][name]) for name in whole[0])
    assert not all(torch.equal(whole[0][name], whole[2][name]) for name in whole[0])
    for resume_after in (0, 1):
        again = trained(resume_after)
        assert all(torch.equal(whole[2][name], again[2][name]) for name in whole[2])


def test_source_data_decides_once_and_in_eval_mode_whatever_is_trained_on() -> None:
    def source() -> Iterator[dict[str, Tensor]]:
        reads.append(1)
        yield from parts(8)

    masks, reads = [], []
    for batch in parts(2):
        model = tiny_llama(dropout=0.5)
        optimizer, mask = masked(model, "weight_times_input", calibration="source", source=source, grain="column")
        for _ in range(2):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
        assert model.training
        masks.append(chosen(mask))
    assert len(reads) == 2
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_ssu_freezes_half_of_the_columns_those_that_matter_most() -> None:
    model = tiny_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, _ = masked(
        model, "weight_times_input", calibration="source", source=lambda: iter([rows()]), grain="column",
        mask_ratio=0.5, keep="smallest",
    )  # fmt: skip
    sums = by_hand("weight_times_input")
    for _ in range(2):
        optimizer.zero_grad()
        backward(model, rows())
        optimizer.step()
    for name, sum_F in sums.items():
        score_F = (before[name].abs() * sum_F.sqrt().float()).sum(0)
        moved = model.get_parameter(name).detach() != before[name]
        assert torch.equal(moved.any(0), score_F <= score_F.sort().values[len(score_F) // 2 - 1]), name
        assert torch.equal(moved.any(0), moved.all(0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"parameters": "all"}, r"signal=weight_times_input: model\.embed_tokens\.weight is not the weight of a"),
        ({"calibration": "source"}, "given with calibration=source and left out otherwise, got calibration=source"),
        ({"source": list}, "given with calibration=source and left out otherwise, got calibration=training"),
        ({"calibration": "target"}, "calibration must be one of training, source, got 'target'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    model = tiny_llama()
    with pytest.raises(ValueError, match=sentence):
        masked(model, "weight_times_input", **settings)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_settings_that_have_no_effect_together_are_refused() -> None:
    for grain in ("column", "head"):
        sentence = (
            f"^grain must not be {grain} where signal=output_magnitude, which scores all {grain}s of a matrix alike"
        )
        with pytest.raises(ValueError, match=sentence):
            MaskSpec(mask_ratio=0.5, signal="output_magnitude", grain=grain)
    for refresh in (1, 20):
        sentence = f"^refresh must be once where calibration=source and signal=output_magnitude, .*, got {refresh}$"
        with pytest.raises(ValueError, match=sentence):
            MaskSpec(mask_ratio=0.5, signal="output_magnitude", grain="row", calibration="source", refresh=refresh)
    MaskSpec(mask_ratio=0.5, signal="weight_times_input", calibration="source", refresh=20)  # weights change
    with pytest.raises(ValueError, match=r"^calibration must be training where signal=gradient, which needs no data"):
        MaskSpec(mask_ratio=0.5, calibration="source")
    packed: dict[str, Any] = {"refresh": "once", "mask_on": "update", "moments": "packed"}
    with pytest.raises(ValueError, match=r"^moments must be dense or masked where signal=weight_times_input, since a"):
        MaskSpec(mask_ratio=0.5, signal="weight_times_input", **packed)


def test_a_step_without_a_pass_that_was_seen_is_refused() -> None:
    model = tiny_llama()
    optimizer, _ = masked(model, "weight_times_input")
    backward(model.eval(), rows())
    with pytest.raises(ValueError, match="signal=weight_times_input saw no forward pass of the model in training mode"):
        optimizer.step()


def test_padding_that_can_not_be_told_is_refused_with_the_layer() -> None:
    model = tiny_llama()
    masked(model, "weight_times_input")
    batch = rows()
    batch["attention_mask"] = batch["attention_mask"][:, None, None, :].expand(8, 1, 10, 10) > 0
    with pytest.raises(ValueError, match=r"can't tell the padding of model\.layers\.0\.self_attn\.q_proj\.weight"):
        model(**batch)


def test_detach_takes_the_hooks_off() -> None:
    model = tiny_llama()
    _, mask = masked(model, "output_magnitude")
    mask.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("calibration", ["training", "source"])
def test_the_hooks_come_off_once_every_parameter_has_a_mask_that_stays(calibration: str) -> None:
    model = tiny_llama()
    given = {"calibration": calibration} | ({"source": lambda: iter([rows()])} if calibration == "source" else {})
    optimizer, mask = masked(model, "weight_times_input", **given)
    for _ in range(2):
        assert mask.facts() is not None or model._forward_pre_hooks
        backward(model, rows())
        optimizer.step()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    state, kept = mask.state_dict(), chosen(mask)
    mask.detach()
    again = attach(model, optimizer, mask.spec, source=given.get("source"))  # type: ignore[arg-type]
    again.load_state_dict(state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    backward(model, rows())
    optimizer.step()
    assert all(torch.equal(kept[name], chosen(again)[name]) for name in kept)


def on_this_worker(expected: dict[str, dict[str, Tensor]]) -> None:
    """Each worker trains on its half of the rows and comes to the masks of one that has all of them."""
    rank = torch.distributed.get_rank()
    for signal, masks in expected.items():
        inner = tiny_llama()
        model = nn.parallel.DistributedDataParallel(inner)
        optimizer, mask = masked(model, signal)
        for batch in parts(4)[2 * rank : 2 * rank + 2]:
            backward(model, batch)
        optimizer.step()
        found = chosen(mask)
        assert set(found) == set(masks)
        assert all(torch.equal(found[name], masks[name]) for name in masks), signal


@pytest.mark.slow
def test_two_workers_choose_as_one_does() -> None:
    expected = {}
    for signal in ("weight_times_input", "output_magnitude"):
        model = tiny_llama()
        optimizer, mask = masked(model, signal)
        for batch in parts(4):
            backward(model, batch)
        optimizer.step()
        expected[signal] = chosen(mask)
    assert in_ranks(on_this_worker, 2, expected) == [0, 0]


def with_a_blank(expected: dict[str, Tensor]) -> None:
    """The second worker has nothing but a blank, which fills up its step."""
    model = nn.parallel.DistributedDataParallel(tiny_llama())
    optimizer, mask = masked(model, "weight_times_input")
    if torch.distributed.get_rank() == 0:
        backward(model, rows())
    else:
        one = torch.ones(1, 1, dtype=torch.long)
        outputs = model(input_ids=0 * one, labels=-100 * one, attention_mask=one)
        (0 * outputs.logits.sum()).backward()
    optimizer.step()
    assert all(torch.equal(kept, expected[name]) for name, kept in chosen(mask).items())


@pytest.mark.slow
def test_a_worker_that_has_a_blank_alone_chooses_as_the_other_does() -> None:
    model = tiny_llama()
    optimizer, mask = masked(model, "weight_times_input")
    backward(model, rows())
    optimizer.step()
    assert in_ranks(with_a_blank, 2, chosen(mask)) == [0, 0]

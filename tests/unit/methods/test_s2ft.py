"""S2FT: chosen channels and heads train in all matrices that they go through, and nothing else moves."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gmt.errors import UserError
from gmt.methods.s2ft import StructuredSparse
from tests.model_families import model_of
from tests.refusals import assert_refused

pytestmark = pytest.mark.heavy

GROUPED = {"hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 8}
GROUPED |= {"num_key_value_heads": 2, "vocab_size": 20, "attention_bias": True, "tie_word_embeddings": True}
ALL = ("up", "gate", "down", "q", "k", "v", "o")
SIZE = 4  # of a head


def grouped_model() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **GROUPED))


def s2ft(**changes: Any) -> StructuredSparse:
    given = {
        "name": "s2ft",
        "mask_ratio": 0.5,
        "matrices": ALL,
        "score": "random",
        "keep": "largest",
        "num_examples": 0,
    }
    return StructuredSparse(**given | changes)


def batches(size: int) -> Any:
    tokens = torch.arange(24).view(2, 12) % 20
    mask = torch.ones_like(tokens)
    mask[1, 8:] = 0
    yield {"input_ids": tokens, "labels": tokens.where(mask == 1, -100), "attention_mask": mask}


def moved(method: StructuredSparse, model: Any, *, steps: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """Train, and return which entries moved."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    common: Any = {"seed": seed, "facts_every": 1}
    if method.num_examples:
        attached = method.attach_with_examples(model, optimizer, batches=batches, **common)
    else:
        attached = method.attach(model, optimizer, **common)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**next(batches(2))).loss.backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
    attached.detach()
    assert all(p.requires_grad for p in model.parameters())
    return {name: p.detach() != before[name] for name, p in model.named_parameters()}


def units(of_entries: Tensor, *, by_columns: bool, size: int) -> list[bool]:
    """Return which units moved; a unit moves as a whole."""
    x = (of_entries.T if by_columns else of_entries).unflatten(0, (-1, size)).flatten(1)
    assert bool((x.float().mean(1) > 0.98).logical_or(~x.any(1)).all())
    return x.any(1).tolist()


@pytest.mark.parametrize("seed", [1, 2])
def test_only_chosen_channels_and_groups_of_heads_move_in_all_their_matrices(seed: int) -> None:
    in_all = moved(s2ft(), grouped_model(), seed=seed)
    num_channels, num_groups, ever = 0, 0, set()
    for layer in range(3):
        of = {name.split(".")[-2]: x for name, x in in_all.items() if f"layers.{layer}." in name and "weight" in name}
        up = units(of["up_proj"], by_columns=False, size=1)
        assert up == units(of["gate_proj"], by_columns=False, size=1) == units(of["down_proj"], by_columns=True, size=1)
        groups = units(of["k_proj"], by_columns=False, size=SIZE)
        assert groups == units(of["v_proj"], by_columns=False, size=SIZE)
        assert groups == units(of["q_proj"], by_columns=False, size=4 * SIZE)  # 4 query heads share one of k and v
        assert groups == units(of["o_proj"], by_columns=True, size=4 * SIZE)
        num_channels, num_groups = num_channels + sum(up), num_groups + sum(groups)
        ever.add(sum(up))
    assert (num_channels, num_groups) == (30, 3)
    assert len(ever) > 1  # the layers are ranked together
    others = [name for name in in_all if not name.endswith("_proj.weight")]
    assert not any(bool(in_all[name].any()) for name in others)


def test_query_heads_are_chosen_one_by_one_where_neither_k_nor_v_trains() -> None:
    in_all = moved(s2ft(matrices=["q", "o"]), grouped_model())
    heads = []
    for layer in range(3):
        of = {name.split(".")[-2]: x for name, x in in_all.items() if f"layers.{layer}." in name and "weight" in name}
        heads.append(units(of["q_proj"], by_columns=False, size=SIZE))
        assert heads[-1] == units(of["o_proj"], by_columns=True, size=SIZE)
        assert not any(bool(of[f"{word}_proj"].any()) for word in ("k", "v", "up", "gate", "down"))
    assert sum(map(sum, heads)) == 12
    assert any(0 < sum(of_layer[:4]) < 4 or 0 < sum(of_layer[4:]) < 4 for of_layer in heads)


def test_a_matrix_without_a_chosen_unit_gets_no_gradient_and_a_resumed_training_keeps_the_choice() -> None:
    model = grouped_model()
    method = s2ft(mask_ratio=0.95, score="weight")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)

    def trained() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    def step(attached: Any) -> None:
        model(**next(batches(2))).loss.backward()
        optimizer.step()
        assert attached.facts()["density"] == attached.num_trained() / num_entries

    attached = method.attach(model, optimizer, seed=1, facts_every=0)
    num_entries = sum(p.numel() for name, p in model.named_parameters() if name.endswith("_proj.weight"))
    first = trained()
    assert sum(name.endswith("k_proj.weight") for name in first) == 1  # one of six groups of heads trains
    step(attached)
    named = dict(model.named_parameters())
    assert {name for name in named if named[name] in optimizer.state} == first
    assert attached.num_touched() == attached.num_trained() == 3 * 32 * 3 + 10 * SIZE * 32
    state = attached.state_dict()
    attached.detach()
    with torch.no_grad():
        for name in first:
            named[name] *= 0.01  # so that others have the largest scores
    resumed = method.attach(model, optimizer, seed=1, facts_every=0)
    assert trained() != first
    resumed.load_state_dict(state)
    assert trained() == first
    step(resumed)


def test_a_share_far_above_the_ratios_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    moved(s2ft(mask_ratio=0.9), grouped_model(), steps=0)
    (record,) = caplog.records  # 6 of 60 channels are a tenth
    assert record.getMessage() == (
        "method=s2ft: 1 of 6 heads train, 17 %, where method.mask_ratio=0.9 asks for 10 %: only whole heads can train, "
        "and at least one does"
    )


@pytest.mark.parametrize("keep", ["largest", "smallest"])
@pytest.mark.parametrize("score", ["weight", "gradient", "activation"])
def test_the_units_with_the_largest_means_are_chosen_over_all_layers(score: str, keep: str) -> None:
    model, num_examples = grouped_model(), 0 if score == "weight" else 2
    mlps = [layer.mlp for layer in model.model.layers]
    inputs: list[Tensor] = []
    hooks = [mlp.down_proj.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach())) for mlp in mlps]
    batch = next(batches(2))
    model(**batch).loss.backward()
    for hook in hooks:
        hook.remove()
    is_token = batch["attention_mask"].bool()
    expected = []
    for mlp, x in zip(mlps, inputs, strict=True):
        if score == "activation":
            expected.append(x[is_token].abs().mean(0))
            continue
        tensors = [m.weight if score == "weight" else m.weight.grad for m in (mlp.up_proj, mlp.gate_proj)]
        down = mlp.down_proj.weight if score == "weight" else mlp.down_proj.weight.grad
        expected.append(torch.cat([*tensors, down.T], dim=1).abs().mean(1))
    order = torch.cat(expected).argsort(descending=keep == "largest", stable=True)
    chosen = torch.zeros(60, dtype=torch.bool)
    chosen[order[:15]] = True
    method = s2ft(mask_ratio=0.75, matrices=["down", "gate", "up"], score=score, keep=keep, num_examples=num_examples)
    model.zero_grad()
    in_all = moved(method, model, steps=1)
    found = [in_all[f"model.layers.{i}.mlp.down_proj.weight"].any(0) for i in range(3)]
    assert torch.cat(found).tolist() == chosen.tolist()


@pytest.mark.parametrize(
    ("family", "matrices", "sentence"),
    [
        ("gpt2", ALL, r"needs one part with up_proj or fc1 and gate_proj and down_proj or fc2 in each .* 2 layers to"),
        ("opt", ["gate"], r"choose channels, got 0: method\.matrices must leave out gate for this model"),
        ("phi3", ["o"], r"to choose heads, got 0: method\.matrices must leave out o for this model"),
        ("mixtral", ["down"], r"experts\S* holds experts as one tensor"),
        ("qwen2_moe", ["down"], r"holds experts as one tensor"),
    ],
)
def test_a_model_of_another_form_is_refused(family: str, matrices: Any, sentence: str) -> None:
    model = model_of(family)
    with pytest.raises(UserError, match=sentence):
        s2ft(matrices=matrices).attach(model, torch.optim.AdamW(model.parameters()), seed=1, facts_every=0)


def test_a_model_with_other_names_for_its_channels_trains_them() -> None:
    in_all = moved(s2ft(matrices=["up", "down", "q", "k", "v", "o"]), model_of("opt"))
    up, down = (in_all[f"model.decoder.layers.0.{name}.weight"] for name in ("fc1", "fc2"))
    assert units(up, by_columns=False, size=1) == units(down, by_columns=True, size=1)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method.matrices=[]"], r"method\.matrices must be a list of some of up, gate, down, q, k, v, o, got \[\]"),
        (["method.matrices=[down,head]"], r"method\.matrices must be a list of some of .*, got \['down', 'head'\]"),
        (["method.score=magnitude"], r"method\.score must be one of random, weight, gradient, activation, got"),
        (["method.num_examples=4"], r"method\.num_examples must be 0 for method\.score=random, .* got 4"),
        (["method.keep=smallest"], r"method\.keep must be largest for method\.score=random, .*, got smallest"),
        (["method.score=gradient"], r"method\.num_examples must be a whole number of at least 1, got 0"),
        (["method.mask_ratio=1"], r"method\.mask_ratio must lie in \[0, 1\), got 1"),
        (["train.optimizer=schedulefree", "train.schedule=constant"], r"must not be schedulefree for method s2ft"),
        (
            ["method.score=gradient", "method.num_examples=4", "task=ultrafeedback", "train=dpo"],
            r"train\.paradigm must be sft for method s2ft, which reads examples",
        ),
        (
            ["resources.sharding=fsdp", "resources.workers=2"],
            r"resources\.sharding must be none for method s2ft, which chooses rows and columns of whole .*, got fsdp",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_when_a_run_is_planned(overrides: list[str], sentence: str) -> None:
    assert_refused(sentence, "method=s2ft", *overrides)

"""The typed table's columns, made from results as runs write them."""

from typing import Any

import pytest

from gmt.tracking.table import final_metrics, result_columns

TRAINING = dict.fromkeys(("density", "forward_backward_s", "mask_s", "optimizer_s", "peak_memory_bytes"), 1)


def result(**metrics: float) -> dict[str, Any]:
    scores = {"target": {"mean": 0.5}, "source": {"mean": 0.5}}
    counts = dict.fromkeys(("num_parameters", "num_train_examples", "num_dropped_examples", "moved_fraction"), 1)
    named = {f"eval/{name.replace('__', '/')}": value for name, value in metrics.items()}
    return {
        "before": scores,
        "after": scores,
        "metrics": {"before": named, "after": {name: 2 * value for name, value in named.items()}},
        "training": TRAINING | {"num_steps": 1, "num_tokens": 1},
        "forgetting": 0.0,
        "density_asked": None,
        "train_seconds": 1.0,
        "seconds": 1.0,
        **counts,
    }


def test_perplexities_of_source_texts_are_one_number() -> None:
    found = result_columns(result(source__a_perplexity=4, source__b_word_perplexity=9, target__c_perplexity=100))
    assert found["source_perplexity_before"] == pytest.approx(6)
    assert found["source_perplexity_after"] == pytest.approx(12)


def test_what_a_run_does_not_have_is_missing_and_no_metric() -> None:
    made = result(source__facts_exact_match=0.5)
    assert result_columns(made)["source_perplexity_after"] is None
    assert not {"result/source_perplexity_after", "result/density_asked"} & set(final_metrics(made))

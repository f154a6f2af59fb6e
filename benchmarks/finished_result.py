"""The result of a run, for benchmarks that write records without training."""

from gmt.records.result import Result, TrainFacts


def finished_result(target: float) -> Result:
    """Return a result with a target score."""
    after = {"target": {"mean": target}, "source": {"mean": 0.6}}
    metrics = {"eval/target_mean": target, "eval/source_mean": 0.6}
    return Result(
        before=after,
        after=after,
        metrics={"before": metrics, "after": metrics},
        forgetting=0.0,
        training=TrainFacts(
            num_steps=1,
            num_tokens=1,
            density=1.0,
            forward_backward_s=1.0,
            mask_s=1.0,
            optimizer_s=1.0,
            seconds=1.0,
            peak_memory_bytes=1,
        ),
        target_density=1.0,
        moved_fraction=1.0,
        num_parameters=1,
        num_train_examples=1,
        num_dropped_examples=1,
        weights_sha256="0" * 64,
        seconds=1.0,
    )

"""Times a run's training and generation beside a bare script of TRL and transformers, on the same data and model.

Ours is the training as `gmt run` does it, from the loaded model to its last step: checks, method, meter, metrics,
checkpoints. The script has an SFTTrainer with the same settings, and saves and logs as often. Generation: the run's
suites as it asks them, beside model.generate over batches of as many prompts. The ways take turns, and each
turn gives a ratio of CPU seconds on one thread, which other work on the machine changes less than seconds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from publishing import publish, script_parser, table
from transformers import PreTrainedModel
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gmt.composition.composer import Composer
from gmt.composition.session import hydra_on
from gmt.evaluation.suites import BATCH_SIZE, ask
from gmt.runs.attempt import existence_check
from gmt.runs.build import Run, build
from gmt.runs.prepare import Prepared, prepare
from gmt.runs.train import reshaped, train_run
from gmt.tasks.protocol import EvaluationInputs, Suite
from gmt.training.control import Control

LIMIT = 1.05


@contextmanager
def prepared_run(folder: str, overrides: list[str]) -> Iterator[tuple[Run, Prepared]]:
    """A run of nano with its examples as tokens."""
    with hydra_on(None):
        config = Composer().compose_plain([f"record.root={folder}", "tracking=none", "resources.gpus=0", *overrides])
    run = build(config)
    run.record.create(run.science, run.config)
    with run.record.locked():
        yield run, prepare(run)


def train_ours(run: Run, prepared: Prepared) -> PreTrainedModel:
    """The training of a run."""
    model = run.model.load_model()
    train_run(
        run,
        prepared,
        model,
        reshaped(run, prepared, model, "cpu"),
        run.train,
        "cpu",
        control=Control(should_stop=existence_check(run.record.folder / "stop")),
        evaluate=lambda step: 0.0,
        on_metrics=run.record.append_metrics,
    )
    return model


def train_bare(run: Run, prepared: Prepared) -> PreTrainedModel:
    """A script of TRL with the same settings."""
    settings, model = run.train, run.model.load_model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            seed=run.seed,
            use_cpu=True,
            num_train_epochs=settings.num_epochs,
            per_device_train_batch_size=settings.micro_batch_size,
            gradient_accumulation_steps=settings.accumulation_steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup_ratio,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=run.record_settings.log_every,
            save_steps=run.record_settings.checkpoint_every,
            save_total_limit=2,
            dataloader_pin_memory=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=prepared.examples,
            processing_class=prepared.reader.tokenizer,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=prepared.reader.tokenizer.pad_token_id),
        )
        trainer.train()
    return model


def suites(prepared: Prepared) -> list[Suite]:
    """The suites of questions that the run asks its model."""
    return [suite for part in prepared.suites.values() for suite in part.values() if isinstance(suite, Suite)]


def generate_ours(run: Run, prepared: Prepared, model: PreTrainedModel) -> list[str]:
    """Answers as the evaluation of a run has them, with their scores."""
    texts: list[str] = []
    for suite in suites(prepared):
        with tempfile.TemporaryDirectory() as scratch:
            inputs = EvaluationInputs(
                **vars(prepared.reader),
                model=model,
                cpus=1,
                scratch=Path(scratch),
                on_progress=lambda done, of: None,
                base=lambda: model,
            )
            texts += [str(row["answer"]) for row in ask(suite, inputs).answers]
    return texts


@torch.inference_mode()
def generate_bare(run: Run, prepared: Prepared, model: PreTrainedModel) -> list[str]:
    """Answers of model.generate, greedy, in batches of the same size by length."""
    tokenizer = prepared.reader.tokenizer
    texts: list[str] = []
    for suite in suites(prepared):
        order = sorted(range(len(suite.prompts)), key=lambda i: len(suite.prompts[i]))
        answers: dict[int, str] = {}
        for first in range(0, len(order), BATCH_SIZE):
            batch = order[first : first + BATCH_SIZE]
            prompts = [suite.prompts[i] for i in batch]
            encoded = tokenizer(
                prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=True
            )
            generated: Any = model.generate(  # type: ignore[operator]
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=suite.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            new = generated[:, encoded["input_ids"].shape[1] :]
            said = tokenizer.batch_decode(new, skip_special_tokens=True)
            answers |= {i: text.strip() for i, text in zip(batch, said, strict=True)}
        texts += [answers[i] for i in range(len(order))]
    return texts


def in_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds and seconds of each way in each round; the first round warms up and is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for i in range(-1, rounds):
        for name in list(ways) if i % 2 else list(ways)[::-1]:
            cpu, wall = time.process_time(), time.perf_counter()
            ways[name]()
            if i >= 0:
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return taken


def row(what: str, taken: dict[str, list[tuple[float, float]]]) -> list[str]:
    """One line of the table."""
    ours, bare = taken.values()
    ratios = [one[0] / other[0] for one, other in zip(ours, bare, strict=True)]
    medians = [f"{statistics.median(cpu for cpu, _ in times):.2f}" for times in (ours, bare)]
    return [what, *medians, f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"]


def main() -> None:
    """Measures and publishes."""
    parser = script_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way that are counted (default: 5)")
    parser.add_argument("--override", action="append", default=[], help="of the run, e.g. task.num_examples=320")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as a run has it
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in ("sft", "gmt"):
            with prepared_run(folder, [f"method={method}", *args.override]) as (run, prepared):

                def ours(run: Run = run, prepared: Prepared = prepared) -> None:
                    train_ours(run, prepared)
                    for checkpoint in run.record.checkpoints.iterdir():
                        checkpoint.rename(checkpoint.with_name(f"old-{time.time_ns()}"))

                ways = {"ours": ours, "bare": lambda run=run, prepared=prepared: train_bare(run, prepared)}
                rows.append(row(f"training, {method}", in_turns(ways, args.rounds)))
                print(rows[-1], flush=True)
        model = run.model.load_model().eval()
        ways = {
            "ours": lambda: generate_ours(run, prepared, model),
            "bare": lambda: generate_bare(run, prepared, model),
        }
        same = statistics.mean(a == b for a, b in zip(ways["ours"](), ways["bare"](), strict=True))
        rows.append(row("generation", in_turns(ways, args.rounds)))
    publish(
        "A run's training and generation beside bare scripts of TRL and transformers, on nano",
        [
            f"CPU seconds on one thread, medians of {args.rounds} turns; the ratio is the median of each turn's own.",
            table(["", "ours, s", "bare, s", "ours / bare", "over turns"], rows),
            f"Limit: {LIMIT} for sft and for generation. gmt does more than the script: it masks. {same:.0%} of the "
            "answers are the same.",
        ],
        args.out,
    )


if __name__ == "__main__":
    main()

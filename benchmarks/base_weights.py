"""What the base weights of two workers cost a node: shared as ours are, and loaded by each, as transformers does."""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from publishing import publish, script_parser, table
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gmt.config_dir import config_dir
from gmt.models.pretrained import SHIPPED, PretrainedModel
from gmt.runs.build import plug_in

NUM_RUNS = 5


def save(folder: Path, dtype: torch.dtype) -> None:
    """A model of SmolLM2-135M's sizes; what its weights are changes no time."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(SHIPPED / "nano").save_pretrained(folder)


def _model(path: str) -> PretrainedModel:
    settings = yaml.safe_load((config_dir() / "model" / "pretrained.yaml").read_text(encoding="utf-8"))
    return plug_in("model", settings | {"name": "x", "path": path})


def _worker(shared: bool, folder: str, here: Any, others: Any) -> None:
    """Loads a base, and then what each of some runs trains; tells of its memory while the other has a base too."""
    torch.set_num_threads(1)  # as a run has it: two workers on two cores
    model = _model(folder)

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)

    small = _model("shipped:nano")
    small.load_model()  # imports, and what else comes once
    before = psutil.Process().memory_full_info().pss
    base = model.base() if shared else load()
    sum(float(parameter.sum()) for parameter in base.parameters())  # else a mapped file is not in memory at all
    others.wait()
    held = psutil.Process().memory_full_info().pss - before
    others.wait()
    seconds = [timed(lambda: write(model.load_model() if shared else load())) for _ in range(NUM_RUNS)]
    here.send((held, min(seconds)))
    del base  # it had to be held until now


@torch.no_grad()
def write(model: torch.nn.Module) -> None:
    """Changes each weight, as a training does: a mapped file's page is copied when it is written to."""
    for parameter in model.parameters():
        parameter.add_(1)


def timed(do: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def measured(shared: bool, folder: Path) -> tuple[float, float]:
    """Bytes that the base adds to the memory of two workers, and seconds until a run has its own model."""
    context = multiprocessing.get_context("spawn")
    meeting, pipes, processes = context.Barrier(2), [], []
    for _ in range(2):
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=_worker, args=(shared, str(folder), theirs, meeting)))
        processes[-1].start()
        pipes.append(mine)
    answers = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return sum(answer[0] for answer in answers), min(answer[1] for answer in answers)


def main() -> None:
    """Measures and reports."""
    args = script_parser(__doc__).parse_args()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            save(folder, dtype)
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            for name, shared in (("ours", True), ("from_pretrained", False)):
                held, seconds = measured(shared, folder)
                rows.append(
                    [
                        str(dtype).removeprefix("torch."),
                        name,
                        f"{size / 1e6:.0f}",
                        f"{held / 1e6:.0f}",
                        f"{seconds:.2f}",
                    ]
                )
    head = ["files", "way", "MB of the files", "MB in memory for two workers' bases", "s for a run's own model"]
    publish(__doc__ or "", [table(head, rows)], args.out)


if __name__ == "__main__":
    main()

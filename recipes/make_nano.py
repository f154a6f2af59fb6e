"""Makes gmt/models/shipped/nano again: `make nano`, about a quarter of an hour on two cores.

1. A byte-pair tokenizer is trained on the questions of conf/task/nano_pretraining.yaml; digits stay single.
2. A Llama of 0.8 M parameters is initialised from the seed.
3. `gmt run` trains it (the same program that users run), and the weights and the training curve are kept.
"""

import json
import shutil
import string
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gmt.composition import Composer, hydra_on
from gmt.models.pretrained import SHIPPED
from gmt.runs.build import build, plug_in
from gmt.runs.execute import execute
from gmt.tasks.protocol import Example, Task

SEED = 0
VOCABULARY = 256
NUM_TOKENIZER_TEXTS = 20_000
# A digit, a word, any other sign, each with the space before it; so that a number is read digit by digit.
PIECES = r" ?\d| ?[A-Za-z]+| ?[^A-Za-z\d\s]|\s"


def make_tokenizer(examples: list[Example]) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer whose merges are the words of the questions."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Fuse()
    step = max(len(examples) // NUM_TOKENIZER_TEXTS, 1)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=sorted(set(string.printable) - set("\t\r\x0b\x0c")),
        show_progress=False,
    )
    tokenizer.train_from_iterator((example.prompt for example in examples[::step]), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
    )


def make_untrained(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model before pretraining, from the seed."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def main(work: Path) -> None:
    """Makes the model in a scratch folder and puts it where the package ships it."""
    untrained = work / "untrained"
    settings = [
        "task=nano_pretraining",
        "train=nano_pretraining",
        "method=sft",
        f"seed={SEED}",
        f"record.root={work}",
    ]
    settings += ["resources.cpus=2", "record.log_every=100", "record.checkpoint_every=500"]
    settings += [f"model.path={untrained}", "model.name=nano_untrained"]
    with hydra_on(None):
        config = Composer().compose_plain(settings)
    task: Task = plug_in("task", config["task"])
    tokenizer = make_tokenizer(list(task.train_examples()))
    tokenizer.save_pretrained(untrained)
    make_untrained(tokenizer).save_pretrained(untrained)
    record = execute(build(config))
    shipped = SHIPPED / "nano"
    shipped.mkdir(parents=True, exist_ok=True)
    for path in (record.folder / "weights").iterdir():
        shutil.copyfile(path, shipped / path.name)
    rows, _ = record.metrics()
    (shipped / "training_curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(json.dumps(record.read("result.json"), indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

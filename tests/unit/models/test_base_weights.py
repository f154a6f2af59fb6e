"""The base is shared by the processes of a node, and a copy of it is what a plain load gives."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gmt.models.pretrained import SHIPPED
from tests.models import pretrained

MEASURE = """
import sys
from pathlib import Path
from tests.models import pretrained
def own():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024
small, *large = sys.argv[1:]
pretrained(small).base()
for path in large:
    before = own()
    base = pretrained(path).base()
    print(own() - before, sum(p.nbytes for p in base.parameters()))
"""


def saved(folder: Path, dtype: torch.dtype, *, tied: bool = True, hidden: int = 64, shard: str = "50GB") -> str:
    """A model folder with random weights and the shipped tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=4096, tie_word_embeddings=tied, **sizes)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    AutoTokenizer.from_pretrained(SHIPPED / "nano").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_is_what_a_plain_load_gives(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    path = saved(tmp_path / "model", dtype, tied=tied, shard="300KB")
    model = pretrained(path)
    assert len(list(Path(path).glob("*.safetensors"))) > 1
    base, copied = model.base(), model.load_model()
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    assert {p.dtype for p in base.parameters()} == {dtype}  # as in the files, all of them
    expected, found = dict(plain.named_parameters()), dict(copied.named_parameters())
    assert list(found) == list(expected)
    for name, parameter in found.items():
        assert torch.equal(parameter, expected[name])
        assert (parameter.dtype, parameter.requires_grad) == (torch.float32, True)
    for name, buffer in copied.named_buffers():
        assert torch.equal(buffer, dict(plain.named_buffers())[name])
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) == tied
    assert copied.config.to_dict() == plain.config.to_dict()
    assert copied.training == plain.training
    ids = torch.arange(12)[None]
    assert torch.equal(copied(ids).logits, plain(ids).logits)


def test_training_a_copy_leaves_the_base_and_the_file_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "model", torch.float32)
    model = pretrained(path)
    before: list[Tensor] = [p.clone() for p in model.base().parameters()]
    fingerprint = model.fingerprint()
    copied = model.load_model()
    copied(torch.arange(12)[None]).logits.sum().backward()
    torch.optim.SGD(copied.parameters(), lr=1.0).step()
    assert not any(torch.equal(a, b) for a, b in zip(copied.parameters(), before, strict=True))
    for parameters in (model.base().parameters(), model.load_model().parameters()):
        assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert all(p.grad is None for p in model.base().parameters())
    assert model.fingerprint() == fingerprint


def test_a_folder_whose_files_have_changed_is_loaded_anew(tmp_path: Path) -> None:
    model = pretrained(saved(tmp_path / "model", torch.float32, hidden=64))
    assert model.load_model().config.hidden_size == 64
    (tmp_path / "model" / "model.safetensors").unlink()
    saved(tmp_path / "model", torch.float32, hidden=32)
    assert model.load_model().config.hidden_size == 32


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much of a process's memory is no file's")
def test_the_base_takes_no_memory_of_a_process_that_another_could_share(tmp_path: Path) -> None:
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    large = [saved(tmp_path / name, dtype, hidden=1024) for name, dtype in dtypes.items()]  # 25 M entries
    small = saved(tmp_path / "small", torch.float32)
    done = subprocess.run([sys.executable, "-c", MEASURE, small, *large], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, line in zip(dtypes, done.stdout.splitlines(), strict=True):
        own, size = (int(part) for part in line.split())
        assert own < 0.5 * size, name  # in float32 it would be twice as much; the rest is what the allocator keeps

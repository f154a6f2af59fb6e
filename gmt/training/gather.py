"""Gathers the weights of a sharded model after its training, so that it can be evaluated and saved."""

from collections.abc import Callable

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel

from gmt.masking.sharding import is_sharded
from gmt.training.workers import index


def gather(model: PreTrainedModel, load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a trained model with its whole weights; each worker must call this.

    Args:
        model: the model after `train`.
        load: loads the model as it was before the training, on the CPU.

    Returns:
        `model` if it is not sharded. Otherwise, on the first worker, a new model on the CPU with the whole weights; on
        the other workers, which do not need them, `model`.
    """
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if index() != 0:
        return model
    whole = load()
    whole.load_state_dict(weights)
    return whole

"""The weights of a sharded model, whole again, for everything that is done after its training."""

from collections.abc import Callable

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import PreTrainedModel

from gmt.masking.sharding import is_sharded
from gmt.training.workers import index


def gather(model: PreTrainedModel, load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A trained model with its whole weights; each worker must call it.

    Args:
        model: as `train` left it.
        load: loads the model that was trained, on the CPU.

    Returns:
        `model` itself if it holds its weights whole. Else, on the first worker, another model with them, on the
        CPU; on the others, which have no use for it, `model`.
    """
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if index() != 0:
        return model
    whole = load()
    whole.load_state_dict(weights)
    return whole

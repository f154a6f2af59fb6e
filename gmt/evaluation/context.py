"""Prompts that do not fit a model's context are refused: a prompt that was cut asks something else."""

from gmt.errors import UserError


def check_fits(suite: str, num_tokens: int, longest: int) -> None:
    """Refuses a prompt.

    Args:
        suite: the word for what asks it.
        num_tokens: of the prompt.
        longest: tokens that the context has left beside the answer.

    Raises:
        UserError: there are more.
    """
    if num_tokens > longest:
        raise UserError(
            f"{suite} asks a prompt of {num_tokens} tokens, and the model's context has room for {max(longest, 0)} "
            "beside the answer; ask with fewer examples (num_fewshot) or for a shorter answer (max_new_tokens)"
        )

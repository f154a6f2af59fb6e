"""The outputs of linear modules of two models for the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmt.diagnostics.linear_modules import compact
from gmt.diagnostics.prompts import token_batches
from gmt.diagnostics.similarity import NUM_SUMS, OutputSums


def compared(
    base: Any,
    tuned: Any,
    names: Sequence[str],
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    memory_bytes: int,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name and the values (see OutputSums) of each module that sees every token of every batch once.

    Args:
        base, tuned: models of one architecture, on one device, in eval mode.
        names: the names of linear modules.
        prompts: token ids.
        batch_size: the most prompts in a forward pass, which have one length.
        memory_bytes: memory for sums and outputs; modules that need more together are measured in groups.
        on_progress: called with the number of steps done and of all steps.
    """
    groups = _groups(base, names, batch_size * max(map(len, prompts)), memory_bytes)
    for number, group in enumerate(groups):

        def progress(done: int, total: int, number: int = number) -> None:
            on_progress(number * total + done, len(groups) * total)

        yield from _compared(base, tuned, group, token_batches(prompts, batch_size, base.device, progress))


def _groups(model: nn.Module, names: Sequence[str], num_tokens: int, memory_bytes: int) -> list[list[str]]:
    """Return the modules in groups whose sums, and outputs for `num_tokens` tokens, fit in `memory_bytes`."""
    groups: list[list[str]] = []
    free = 0
    for name in names:
        matrix: Any = model.get_submodule(name).weight
        num_features = min(matrix.shape) + 1  # one more for the bias, see `compact`
        needed = num_features * (8 * NUM_SUMS * num_features + 4 * 2 * num_tokens)  # float64, float32
        if not groups or needed > free:
            groups.append([])
            free = memory_bytes
        groups[-1].append(name)
        free -= needed
    return groups


def _compared(
    base: Any, tuned: Any, names: Sequence[str], batches: Iterator[Tensor]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the values of each module that sees each token once, from one pass of both models over all batches."""
    sums: dict[str, OutputSums] = {}
    incomplete: set[str] = set()
    with torch.inference_mode(), Outputs(base, names) as of_base, Outputs(tuned, names) as of_tuned:
        for ids in batches:
            for model in (base, tuned):
                model(input_ids=ids, use_cache=False)
            x, y = of_base.take(), of_tuned.take()
            for name in names:
                if not all(len(outputs.get(name, ())) == ids.numel() for outputs in (x, y)):
                    incomplete.add(name)
                elif name not in incomplete:
                    if name not in sums:
                        sums[name] = OutputSums(x[name].shape[1], ids.device)
                    sums[name].add(x.pop(name), y.pop(name))
    for name in names:
        if name in sums and name not in incomplete:
            yield name, sums.pop(name).values()


class Outputs:
    """Hooks that compute the outputs of linear modules, in coordinates that need no more numbers than the inputs.

    Args:
        model: a model; the hooks are removed when the `with` block ends.
        names: the names of linear modules.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        self._modules = {name: model.get_submodule(name) for name in names}
        self._outputs: dict[str, list[Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Outputs:
        self._hooks = [m.register_forward_pre_hook(self._hook(name, m)) for name, m in self._modules.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def take(self) -> dict[str, Tensor]:
        """Return the outputs since the last call by module, float32, shape [tokens, features]."""
        outputs, self._outputs = self._outputs, {}
        return {name: torch.cat(parts) for name, parts in outputs.items()}

    def _hook(self, name: str, module: nn.Module) -> Any:
        weight, bias = compact(module)

        def store_outputs(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            h = inputs[0].float().flatten(end_dim=-2)
            self._outputs.setdefault(name, []).append(torch.nn.functional.linear(h, weight, bias))

        return store_outputs

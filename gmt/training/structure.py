"""Refuses a method that changes the parts of a model or what they compute.

The optimizer, the workers' copies and the loaded checkpoint are made before a method attaches. A parameter that it adds
is synchronised by no worker and restored by no checkpoint, and an adapter that is taken off at the end was trained and
is not evaluated. So such a method is refused; one that reshapes a model does so before these are made
(gmt/training/reshaping.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gmt.errors import UserError
from gmt.listed import some
from gmt.masking.parameters import plain_name

_RULE = (
    "a method may not add, remove or replace parameters, buffers or modules, or change what a module computes, since "
    "the optimizer, the workers and the checkpoint are made before it attaches; `reshape` is the place for it "
    "(gmt/methods/protocol.py, ReshapesModel)"
)

Layout = Mapping[str, object]


def layout(model: nn.Module) -> Layout:
    """Return the names of a model's parameters and buffers with their shapes, and of its modules with their classes.

    Buffers that no checkpoint holds are left out: the caches of some models (rotary positions) grow in a forward pass.
    """
    tensors: Iterator[tuple[str, object]] = (
        (f"{kind} {plain_name(name)}", tuple(tensor.shape))
        for kind, named in (("parameter", model.named_parameters()), ("buffer", _saved_buffers(model)))
        for name, tensor in named
    )
    return dict(tensors) | {_module(name): type(module) for name, module in model.named_modules()}


def _saved_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def check_layout(method: str, before: Layout, model: nn.Module, when: str) -> None:
    """Refuse a method that has left a model with other parts than it found.

    Raises:
        UserError: names the parts.
    """
    _refuse(f"method {method} {when}", before, layout(model), lambda a, b: a == b)


@contextmanager
def unchanged(method: str, doing: str, model: nn.Module, optimizer: Any) -> Iterator[None]:
    """Refuse a method that changes the parts of a model or an optimizer inside the `with` block.

    A forward hook that is registered inside may look at what a module computes; it raises a UserError if it returns
    something, as that would be computed instead, or changes an input or an output in place.

    Raises:
        UserError: names the parts.
    """
    before, hooks = _parts(model, optimizer), [dict(table) for table in _hook_tables(model)]
    yield
    _refuse(f"method {method}: {doing}", before, _parts(model, optimizer), _is_same)
    for table, earlier in zip(_hook_tables(model), hooks, strict=True):
        for key in table.keys() - earlier.keys():
            table[key] = _only_looking(table[key], f"method {method}: {doing}")


def _refuse(what: str, before: Layout, after: Layout, is_same: Callable[[Any, Any], bool]) -> None:
    changes = {
        "adds": [name for name in after if name not in before],
        "removes": [name for name in before if name not in after],
        "replaces": [name for name in before if name in after and not is_same(before[name], after[name])],
    }
    done = [f"{verb} {_some(names)}" for verb, names in changes.items() if names]
    if done:
        raise UserError(f"{what} {' and '.join(done)}: {_RULE}")


def _some(names: list[str]) -> str:
    # A module's parameters say more than the modules around them.
    return some(sorted(names, key=lambda name: name.startswith("module")), most=3)


def _module(name: str) -> str:
    return f"module {plain_name(name)}" if name else "the model"


def _parts(model: nn.Module, optimizer: Any) -> dict[str, tuple[object, ...]]:
    parts: dict[str, tuple[object, ...]] = {}
    parts |= {f"parameter {plain_name(name)}": (p,) for name, p in model.named_parameters()}
    parts |= {f"buffer {plain_name(name)}": (b,) for name, b in model.named_buffers()}
    for name, module in model.named_modules():
        computes = (type(module), type(module).forward, vars(module).get("forward"))
        parts[_module(name)] = (module, *computes)
    for number, group in enumerate(optimizer.param_groups):
        parts |= {f"parameter {i} of the optimizer's group {number}": (p,) for i, p in enumerate(group["params"])}
    return parts


def _is_same(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    return all(a is b for a, b in zip(before, after, strict=True))


def _hook_tables(model: nn.Module) -> list[MutableMapping[int, Any]]:
    of_all = torch.nn.modules.module
    tables: list[MutableMapping[int, Any]] = [of_all._global_forward_hooks, of_all._global_forward_pre_hooks]
    for module in model.modules():
        tables += [module._forward_hooks, module._forward_pre_hooks]
    return tables


def _only_looking(hook: Callable[..., Any], what: str) -> Callable[..., None]:
    def looks(module: nn.Module, *args: Any, **kwargs: Any) -> None:
        tensors = [t for t in _tensors((args, kwargs)) if not t.is_inference()]  # an inference tensor has no version
        versions = [tensor._version for tensor in tensors]
        if hook(module, *args, **kwargs) is not None or versions != [tensor._version for tensor in tensors]:
            raise UserError(f"{what} adds a forward hook that changes what {type(module).__name__} computes: {_RULE}")

    return looks


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)

"""Refuses a method that changes the parts of a model or what they compute.

The optimizer, the workers' copies of the model and the loaded checkpoint exist before a method is attached. A parameter
that the method then adds would not be synchronised among workers or restored from checkpoints, and an adapter that it
removes at the end would be trained but not evaluated. A method that reshapes a model does so earlier
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
    "the optimizer, the workers' copies and the checkpoint exist before it is attached; a method that needs such "
    "changes makes them in `reshape` (gmt/methods/protocol.py, ReshapesModel)"
)

Layout = Mapping[str, object]


def layout(model: nn.Module) -> Layout:
    """Return the names of a model's parameters and buffers with their shapes, and of its modules with their classes.

    Buffers that are not in checkpoints are left out, since some models have caches (of rotary positions) that grow in a
    forward pass.
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
    """Raise UserError if a model's parts differ from those before; the message names the parts.

    Args:
        method: the name of the method that had the model.
        before: the layout of the model before.
        model: the model.
        when: the time of the check, for the error.
    """
    _refuse(f"method {method} {when}", before, layout(model), lambda a, b: a == b)


@contextmanager
def unchanged(method: str, call: str, model: nn.Module, optimizer: Any) -> Iterator[None]:
    """Refuse a method that changes the parts of a model or an optimizer inside the `with` block.

    A forward hook that is registered inside the block may only read inputs and outputs. It is wrapped, so that a later
    forward pass raises a UserError if the hook returns a value, which would replace the output, or changes an input or
    an output in place.

    Args:
        method: the method's name.
        call: the name of the method's function that is called inside the block.
        model: the model.
        optimizer: the optimizer.

    Raises:
        UserError: a part was changed; the message names it.
    """
    before, hooks = _parts(model, optimizer), [dict(table) for table in _hook_tables(model)]
    yield
    _refuse(f"method {method}: {call}", before, _parts(model, optimizer), _is_same)
    for table, earlier in zip(_hook_tables(model), hooks, strict=True):
        for key in table.keys() - earlier.keys():
            table[key] = _read_only(table[key], f"method {method}: {call}")


def _refuse(what: str, before: Layout, after: Layout, is_same: Callable[[Any, Any], bool]) -> None:
    changes = {
        "adds": [name for name in after if name not in before],
        "removes": [name for name in before if name not in after],
        "replaces": [name for name in before if name in after and not is_same(before[name], after[name])],
    }
    clauses = [f"{verb} {_first_names(names)}" for verb, names in changes.items() if names]
    if clauses:
        raise UserError(f"{what} {' and '.join(clauses)}: {_RULE}")


def _first_names(names: list[str]) -> str:
    # Parameters come first, since their names say more than those of the modules that hold them.
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
    torch_module = torch.nn.modules.module
    tables: list[MutableMapping[int, Any]] = [
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
    ]
    for module in model.modules():
        tables += [module._forward_hooks, module._forward_pre_hooks]
    return tables


def _read_only(hook: Callable[..., Any], what: str) -> Callable[..., None]:
    """Return a forward hook that calls another one and raises UserError if that changes what the module computes."""

    def checked_hook(module: nn.Module, *args: Any, **kwargs: Any) -> None:
        tensors = [t for t in _tensors((args, kwargs)) if not t.is_inference()]  # an inference tensor has no version
        versions = [tensor._version for tensor in tensors]
        if hook(module, *args, **kwargs) is not None or versions != [tensor._version for tensor in tensors]:
            raise UserError(f"{what} adds a forward hook that changes what {type(module).__name__} computes: {_RULE}")

    return checked_hook


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)

"""Finds the class that a `_target_` names, and explains faults of plug-ins to their authors. Imports no library."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

from gmt.errors import MachineFault, UserError, choices
from gmt.machine_faults import machine_faults_first

_NOTHING = object()
_IMPORT_SYSTEM = "<frozen importlib"  # the file in frames of Python's own import code


@lru_cache(maxsize=64)
def class_of(setting: str, target: str) -> type:
    """Return the dataclass that a target names.

    Args:
        setting: the config key of the plug-in, e.g. `method`.
        target: the dotted path of the class.

    Raises:
        UserError: there is no such module or class, the module raises an error when it is imported, or the target is
            not a dataclass, or is an abstract one.
    """
    if not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"{setting}._target_ must be a class's path such as package.module.Class, got {target!r}")
    module, names = _module_of(setting, target)
    member: Any = module
    for name in names:
        if not hasattr(member, name):
            where = f"module {module.__name__}" if member is module else f"class {member.__name__}"
            known = [key for key, value in vars(member).items() if isinstance(value, type) and not key.startswith("_")]
            hint = f"; {choices(name, known)}" if known else ""
            raise UserError(
                f"{setting}._target_ names no class that can be imported: {target!r}: {where} has no {name!r}{hint}"
            )
        member = getattr(member, name)
    if not isinstance(member, type):
        raise UserError(f"{setting}._target_ must name a class, got {target!r}, which is a {type(member).__name__}")
    if not dataclasses.is_dataclass(member):
        raise UserError(
            f"{setting}._target_ must name a dataclass, whose fields are its settings, got class {target!r}: write "
            "@dataclass(frozen=True, kw_only=True) above it"
        )
    if inspect.isabstract(member):
        abstract = ", ".join(sorted(member.__abstractmethods__))
        raise UserError(
            f"{setting}._target_ must name a class that is not abstract, got {target!r}, which lacks {abstract}"
        )
    return member


def _module_of(setting: str, target: str) -> tuple[ModuleType, list[str]]:
    """Return the module that a target begins with, and the names after it."""
    parts = target.split(".")
    missing = parts[0]
    for number in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:number])
        try:
            with machine_faults_first(f"{setting}._target_={target}"):
                return importlib.import_module(name), parts[number:]
        except MachineFault:
            raise
        except Exception as error:  # third-party code, which may raise anything when it is imported
            not_found = error.name if isinstance(error, ModuleNotFoundError) else None
            if not_found is None or not f"{name}.".startswith(f"{not_found}."):  # the module's own code failed
                raise UserError(
                    f"{setting}._target_={target}: module {name} raises when it is imported: {in_words(error)}"
                ) from error
            missing = not_found
        except SystemExit as error:
            raise UserError(f"{setting}._target_={target}: module {name} exits when it is imported") from error
    raise UserError(
        f"{setting}._target_ names no class that can be imported: {target!r}: Python finds no module {missing!r}; a "
        "package of your own must be installed here, or its folder be on PYTHONPATH"
    )


def in_words(error: BaseException) -> str:
    """Return an error's type, its message, and the line of code that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_IMPORT_SYSTEM)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


@contextmanager
def faults_of(setting: str, plug_in: object, event: str) -> Iterator[None]:
    """Turn an error in the code of a plug-in into a sentence that names the class and the line that raised it.

    Args:
        setting: the config key of the plug-in.
        plug_in: the class, or an object of it.
        event: a verb phrase that says what the class did, e.g. `refuses its settings`.

    Raises:
        UserError: the code raised anything; UserErrors and faults of the machine pass unchanged.
    """
    try:
        with machine_faults_first(setting):
            yield
    except (UserError, MachineFault):
        raise
    except (Exception, SystemExit) as error:  # third-party code, which may raise anything
        raise UserError(f"{setting}: class {_path(plug_in)} {event}: {in_words(error)}") from error


def check_protocol(setting: str, instance: object, protocol: type) -> None:
    """Refuse a plug-in that lacks a member of its protocol, or has it with another signature.

    If the plug-in has all members of an optional protocol in the same module, that protocol is checked too.

    Raises:
        UserError: a member is missing or wrong; a sentence for each member.
    """
    plug_in: Any = type(instance)
    sentences = [
        f"{setting}: class {_path(instance)} {fault} (see {part.__module__}.{part.__name__})"
        for part in (protocol, *_optional_protocols(plug_in, protocol))
        for fault in _faults_of_class(plug_in, part)
    ]
    if sentences:
        raise UserError(*sentences)


@lru_cache(maxsize=64)
def _optional_protocols(plug_in: type, protocol: type) -> list[type]:
    """Return the optional protocols in a protocol's module of which a class has all members."""
    return [
        part
        for part in vars(sys.modules[protocol.__module__]).values()
        if isinstance(part, type)
        and part is not protocol
        and part.__module__ == protocol.__module__
        and getattr(part, "_is_runtime_protocol", False)
        and all(_has(plug_in, name, member) for name, member in vars(part).items() if not name.startswith("_"))
    ]


def _has(plug_in: type, name: str, member: object) -> bool:
    """Return whether a class has a member of a protocol; None may be the value of a property, and is no method."""
    value = inspect.getattr_static(plug_in, name, _NOTHING)
    has_value = value is not _NOTHING and (value is not None or isinstance(member, property))
    return name in _fields(plug_in) or has_value


def _fields(plug_in: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(plug_in)} if dataclasses.is_dataclass(plug_in) else set()


@lru_cache(maxsize=64)  # a plan calls this once for each run
def _faults_of_class(plug_in: type, protocol: type) -> list[str]:
    members = ((name, member) for name, member in vars(protocol).items() if not name.startswith("_"))
    return [fault for name, member in members if (fault := _fault(plug_in, name, member)) is not None]


def _fault(plug_in: type, name: str, member: object) -> str | None:
    if not _has(plug_in, name, member):
        return f"lacks {name!r}"
    attribute = inspect.getattr_static(plug_in, name, None)
    if isinstance(member, property):
        is_method = inspect.isfunction(attribute)
        return f"must have {name!r} as a property or a field, and it is a method" if is_method else None
    if not inspect.isfunction(member) or name in _fields(plug_in):
        return None
    if not inspect.isfunction(attribute):
        return None if callable(getattr(plug_in, name)) else f"must have {name!r} as a method"
    parameters = list(inspect.signature(member).parameters.values())
    positional = [None for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    named: Mapping[str, None] = {p.name: None for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    try:
        inspect.signature(attribute).bind(*positional, **named)
    except TypeError as error:
        untyped = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
        return f"must have the method {name}{inspect.Signature(untyped)}: {error}"
    return None


def _path(plug_in: object) -> str:
    plug_in_class = plug_in if isinstance(plug_in, type) else type(plug_in)
    return f"{plug_in_class.__module__}.{plug_in_class.__qualname__}"

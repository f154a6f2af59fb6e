"""Finds the class that a `_target_` names; tells its author in a sentence what has to be mended. Imports no library."""

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

_OF_IMPORTING = "<frozen importlib"


@lru_cache(maxsize=64)
def class_of(setting: str, target: str) -> type:
    """Return the dataclass that a target names.

    Args:
        setting: the config key of the plug-in, e.g. `method`.
        target: the dotted path of the class.

    Raises:
        UserError: there is no such module or class, the module raises as it is imported, or what is there is no
            dataclass that can be made.
    """
    if not all(part.isidentifier() for part in target.split(".")):
        raise UserError(f"{setting}._target_ must be a class's path such as package.module.Class, got {target!r}")
    module, names = _module_of(setting, target)
    found: Any = module
    for name in names:
        if not hasattr(found, name):
            where = f"module {module.__name__}" if found is module else f"class {found.__name__}"
            known = [key for key, value in vars(found).items() if isinstance(value, type) and not key.startswith("_")]
            more = f"; {choices(name, known)}" if known else ""
            raise UserError(
                f"{setting}._target_ names no class that can be imported: {target!r}: {where} has no {name!r}{more}"
            )
        found = getattr(found, name)
    if not isinstance(found, type):
        raise UserError(f"{setting}._target_ must name a class, got {target!r}, which is a {type(found).__name__}")
    if not dataclasses.is_dataclass(found):
        raise UserError(
            f"{setting}._target_ must name a dataclass, whose fields are its settings, got class {target!r}: write "
            "@dataclass(frozen=True, kw_only=True) above it"
        )
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UserError(
            f"{setting}._target_ must name a class that is no abstract one, got {target!r}: lacks {lacking}"
        )
    return found


def _module_of(setting: str, target: str) -> tuple[ModuleType, list[str]]:
    """Return the module that a target begins with, and the names that follow."""
    parts = target.split(".")
    missing = parts[0]
    for number in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:number])
        try:
            with machine_faults_first(f"{setting}._target_={target}"):
                return importlib.import_module(name), parts[number:]
        except MachineFault:
            raise
        except Exception as error:  # third-party code, which may raise anything as it is imported
            lost = error.name if isinstance(error, ModuleNotFoundError) else None
            if lost is None or not f"{name}.".startswith(f"{lost}."):  # what the module itself imports, or does
                raise UserError(
                    f"{setting}._target_={target}: module {name} raises as it is imported: {in_words(error)}"
                ) from error
            missing = lost
        except SystemExit as error:
            raise UserError(f"{setting}._target_={target}: module {name} exits as it is imported") from error
    raise UserError(
        f"{setting}._target_ names no class that can be imported: {target!r}: Python finds no module {missing!r}; a "
        "package of your own must be installed here, or its folder be on PYTHONPATH"
    )


def in_words(error: BaseException) -> str:
    """Return an error's type, what it says, and the line of code that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_OF_IMPORTING)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


@contextmanager
def faults_of(setting: str, found: object, doing: str) -> Iterator[None]:
    """Say of an error in the code of a plug-in which class raised it, and where.

    Args:
        setting: the config key of the plug-in.
        found: the class, or an object of it.
        doing: what it was asked for, e.g. `refuses its settings`.

    Raises:
        UserError: anything but a UserError or a fault of the machine was raised.
    """
    try:
        with machine_faults_first(setting):
            yield
    except (UserError, MachineFault):
        raise
    except Exception as error:  # third-party code, which may raise anything
        raise UserError(f"{setting}: class {_path(found)} {doing}: {in_words(error)}") from error


def check_protocol(setting: str, made: object, protocol: type) -> None:
    """Refuse a plug-in that lacks something of its protocol, or has it in another shape.

    The optional protocols in the same module whose members the plug-in has are checked likewise.

    Raises:
        UserError: with a sentence for each member.
    """
    kind: Any = type(made)
    sentences = [
        f"{setting}: class {_path(made)} {fault} (see {part.__module__}.{part.__name__})"
        for part in (protocol, *_parts_of_class(kind, protocol))
        for fault in _faults_of_class(kind, part)
    ]
    if sentences:
        raise UserError(*sentences)


@lru_cache(maxsize=64)
def _parts_of_class(kind: type, protocol: type) -> list[type]:
    """Return the optional protocols beside a protocol whose members a class has."""
    return [
        part
        for part in vars(sys.modules[protocol.__module__]).values()
        if isinstance(part, type)
        and part is not protocol
        and part.__module__ == protocol.__module__
        and getattr(part, "_is_runtime_protocol", False)
        and all(_has(kind, name) for name in vars(part) if not name.startswith("_"))
    ]


def _has(kind: type, name: str) -> bool:
    return name in _fields(kind) or inspect.getattr_static(kind, name, None) is not None


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()


@lru_cache(maxsize=64)  # a plan asks once for each run
def _faults_of_class(kind: type, protocol: type) -> list[str]:
    members = ((name, member) for name, member in vars(protocol).items() if not name.startswith("_"))
    return [fault for name, member in members if (fault := _fault(kind, name, member)) is not None]


def _fault(kind: type, name: str, member: object) -> str | None:
    if not _has(kind, name):
        return f"lacks {name!r}"
    of_class = inspect.getattr_static(kind, name, None)
    if isinstance(member, property):
        is_method = inspect.isfunction(of_class)
        return f"must have {name!r} as a property or a field, and it is a method" if is_method else None
    if not inspect.isfunction(member) or name in _fields(kind):
        return None
    if not inspect.isfunction(of_class):
        return None if callable(getattr(kind, name)) else f"must have {name!r} as a method"
    asked = list(inspect.signature(member).parameters.values())
    positional = [None for each in asked if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    named: Mapping[str, None] = {each.name: None for each in asked if each.kind is inspect.Parameter.KEYWORD_ONLY}
    try:
        inspect.signature(of_class).bind(*positional, **named)
    except TypeError as error:
        bare = [each.replace(annotation=inspect.Parameter.empty) for each in asked]
        return f"must have the method {name}{inspect.Signature(bare)}: {error}"
    return None


def _path(found: object) -> str:
    kind = found if isinstance(found, type) else type(found)
    return f"{kind.__module__}.{kind.__qualname__}"

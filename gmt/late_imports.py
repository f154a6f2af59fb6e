"""Lets a library be imported without the slow modules that it imports itself, and that we do not use."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """Stands for a module, which is imported when somebody reads an attribute."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these, and must not be given the module's
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def imported_late(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Make `import` within the block give stand-ins for modules; each imports its module at the first use.

    Nothing changes for the modules of a package that is imported already. After the block, `import` gives the modules
    themselves again; the stand-ins remain where the block's modules have stored them.

    Args:
        modules: the names of the modules, packages before their modules; for each, the names that `from MODULE import
            NAME` takes. Those names are not imported late: they are None for good.
    """
    absent = {name: unused for name, unused in modules.items() if name.partition(".")[0] not in sys.modules}
    for name, unused in absent.items():
        stand_in = _StandIn(name)
        vars(stand_in).update({"__path__": [], **dict.fromkeys(unused)})
        package, _, last = name.rpartition(".")
        if package:
            vars(sys.modules[package])[last] = stand_in
        sys.modules[name] = stand_in
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]

"""Libraries that take seconds to import, and that few tests use.

Every test process imports every test's module. One that names a library here gets it at once; the library's code runs
when an attribute is used. `importlib.util.LazyLoader` would run it for `__file__` too, which `inspect` asks of all
modules.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

SLOW = ("jsonschema", "openai", "transformers")


class LateModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what pytest and inspect ask of every object
            raise AttributeError(name)

        spec = self.__spec__
        if spec is not None and spec.loader is not None and self.__dict__.setdefault("__late__", True):
            self.__late__ = False
            spec.loader.exec_module(self)
        module = sys.modules[self.__name__]  # some put another object there
        if module is self and name not in self.__dict__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(module, name)


def install() -> None:
    for name in SLOW:
        spec = importlib.util.find_spec(name)
        if name not in sys.modules and spec is not None:
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            module.__class__ = LateModule

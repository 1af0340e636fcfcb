"""Reads facts about a model from its files: bounds-checked, without running, unpickling or fully loading anything.

Everything here is synchronous and may take a second on a large header: call it from a thread or a child process.
"""

from modelshare.server.registry.inspection.directory import inspect
from modelshare.server.registry.inspection.facts import Facts, Format, Task
from modelshare.server.registry.inspection.reader import FileReader, RangeReader
from modelshare.server.registry.refused import ModelRejectedError

__all__ = ["Facts", "FileReader", "Format", "ModelRejectedError", "RangeReader", "Task", "inspect"]

"""Nothing is defined that nobody uses; tests do not count as users."""

import ast
import re
from collections.abc import Iterator

from source_code import FILES, ROOT, Function, name, tree

CALLED_BY_LIBRARIES = {
    *("connection_made", "connection_lost", "eof_received", "pause_writing", "resume_writing"),  # asyncio.Protocol
    *("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_chunk_header", "on_body"),  # httptools
    *("on_message_complete", "seekable"),  # the latter io.RawIOBase
    *("check_health", "on_before_node_init"),  # Ray Serve, and its LLM callbacks
    "search_paths",  # botocore
}
FOR_OPERATORS = {"downgrade"}
"""Of migrations: what a test shows to work, and an operator may need one day."""


def definitions() -> Iterator[tuple[str, str]]:
    """Name and place of functions, methods, classes and module constants. What is decorated may be known elsewhere."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, Function | ast.ClassDef) and not registered(node):
                yield node.name, f"{name(path)}:{node.lineno} {node.name}"
        for node in tree(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, f"{name(path)}:{node.lineno} {target.id}"


def registered(node: Function | ast.ClassDef) -> bool:
    """Whether a decorator hands it to somebody: a route, a command, a validator; not those of the language itself."""
    own = {"property", "classmethod", "staticmethod", "abstractmethod", "contextmanager", "asynccontextmanager"}
    own |= {"dataclass", "cache", "cached_property", "lru_cache", "override", "overload", "runtime_checkable", "wraps"}
    said = {ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list}
    return bool(said - own)


def uses() -> Iterator[str]:
    """Every name that is read, in code or in a template, and every string that may be one."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            match node:
                case ast.Name(id=found, ctx=ast.Load()) | ast.Attribute(attr=found) | ast.alias(name=found):
                    yield found
                case ast.Constant(value=str() as found):
                    yield from re.findall(r"\w+", found) if len(found.split()) == 1 else ()
    for path in (ROOT.parent.parent / "pyproject.toml", *ROOT.rglob("*.html"), *ROOT.rglob("*.mako")):
        yield from re.findall(r"\w+", path.read_text(encoding="utf-8"))


def test_everything_that_is_defined_is_used() -> None:
    known = {*uses(), *CALLED_BY_LIBRARIES, *FOR_OPERATORS}
    assert [where for each, where in definitions() if each not in known and not each.startswith("__")] == []

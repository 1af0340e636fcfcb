"""What clients rely on in the API: its routes, and the fields and parameters of requests and answers.

`PYTHONPATH=SOURCES python tests/api_contract.py > tests/api_before.json` records that of a version; with each release.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from modelshare.server.api import api

Json = dict[str, Any]
Contract = dict[str, dict[str, dict[str, Any]]]
"""By route: `asked` (name: whether it is required) and `answered` (name: its JSON types)."""


def current() -> Contract:
    document = api().openapi()
    return {
        f"{method.upper()} {path}": {"asked": _asked(operation, document), "answered": _answered(operation, document)}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if isinstance(operation, dict)  # the others hold for all methods of a path
    }


def _asked(operation: Json, document: Json) -> dict[str, bool]:
    found = {f"{each['in']} {each['name']}": bool(each.get("required")) for each in operation.get("parameters", ())}
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for name, _, required in _fields(content.get("schema", {}), document):
            found[f"body {name}"] = required
    return dict(sorted(found.items()))


def _answered(operation: Json, document: Json) -> dict[str, list[str]]:
    found = {}
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json", {})
        if status.startswith("2"):
            for name, types, _ in _fields(content.get("schema", {}), document):
                found[name] = sorted(types)
    return dict(sorted(found.items()))


def _fields(
    schema: Json, document: Json, at: str = "", seen: tuple[str, ...] = ()
) -> Iterator[tuple[str, set[str], bool]]:
    """Name, types and whether it is required, of the schema's fields and of theirs."""
    for each in _alternatives(schema):
        reference = each.get("$ref", "")
        if reference in seen:
            continue
        known = document["components"]["schemas"][reference.rpartition("/")[2]] if reference else each
        for each_known in _alternatives(known):
            inside = (*seen, reference) if reference else seen
            if "items" in each_known:
                yield from _fields(each_known["items"], document, f"{at}[]", inside)
            for name, field in each_known.get("properties", {}).items():
                where = f"{at}.{name}".lstrip(".")
                yield where, _types(field, document), name in each_known.get("required", ())
                yield from _fields(field, document, where, inside)


def _alternatives(schema: Json) -> list[Json]:
    return list(schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or [schema])


def _types(schema: Json, document: Json) -> set[str]:
    found = set()
    for each in _alternatives(schema):
        reference = each.get("$ref")
        known = document["components"]["schemas"][reference.rpartition("/")[2]] if reference else each
        found |= {str(known.get("type", "object" if "properties" in known else "any"))}
    return found


if __name__ == "__main__":
    routes = [f"{json.dumps(route)}: {json.dumps(fields)}" for route, fields in sorted(current().items())]
    sys.stdout.write("{\n" + ",\n".join(routes) + "\n}\n")

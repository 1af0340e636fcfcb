"""Routes for reading: models, revisions, lists of files, and files."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from modelshare.server.http import Caller
from modelshare.server.hub.access import (
    MAIN,
    EndpointReader,
    ReadableModel,
    ReadableVersion,
    commit_of,
    find_model,
    readable_models,
    with_files,
)
from modelshare.server.hub.hugging_face import drafts, files
from modelshare.server.hub.hugging_face.calls import HubCall, HubError, answer, may_push, no_repository, no_revision
from modelshare.server.hub.hugging_face.drafts import Branch
from modelshare.server.hub.hugging_face.git_objects import folder_oid, git_oid, is_large, pointer
from modelshare.server.hub.hugging_face.trees import Entry
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.tables import ModelRow
from modelshare.wire.keys import Scope

PAGE: Final = 10_000
"""Maximum entries per page: as many files as a version may have, since llama.cpp reads only the first page."""
_MODELS: Final = 1_000
_NOT_YET: Final = "`{}` is not ready yet. Files are sent once it is; `modelshare models` says when."


async def whoami(call: HubCall) -> Response:
    reader = call.known
    writes = not isinstance(reader, EndpointReader) and reader.allows(Scope.MODELS)
    name = reader.slug if isinstance(reader, EndpointReader) else reader.actor
    token = {"displayName": name, "role": "write" if writes else "read"}
    return answer(
        {
            "type": "user",
            "id": reader.project_id,
            "name": reader.project_slug,
            "fullname": reader.project_slug,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


async def models(call: HubCall) -> Response:
    """Models that the reader may read, filtered by `author` and `search`."""
    query = call.request.query_params
    async with call.platform.database.read() as session:
        found = await readable_models(session, call.known, limit=_MODELS, now=call.platform.now())
    author, search = query.get("author"), (query.get("search") or "").lower()
    shown = [
        _summary(each)
        for each in found
        if (author is None or each.model.project.slug == author.lower()) and search in each.name.lower()
    ]
    limit = query.get("limit") or ""
    return answer(shown[: int(limit)] if limit.isascii() and limit.isdigit() else shown)


async def info(call: HubCall, owner: str, name: str, revision: str = MAIN) -> Response:
    branch = await _draft(call, owner, name, revision)
    if branch is not None:
        return answer(_summary_of_draft(branch))
    model, version = await readable(call, owner, name, revision)
    siblings: list[dict[str, Any]] = [{"rfilename": file.path} for file in version.files]
    if call.request.query_params.get("blobs", "").lower() in {"1", "true"}:
        nodes = await _nodes(call, version.files)
        siblings = [
            {"rfilename": node["path"], "size": node["size"], "blobId": node["oid"]}
            | ({"lfs": node["lfs"] | {"sha256": node["lfs"]["oid"]}} if "lfs" in node else {})
            for node in nodes
        ]
    return answer(_summary(model) | {"sha": version.commit, "siblings": siblings})


async def refs(call: HubCall, owner: str, name: str) -> Response:
    """The branch `main`, and every version as a tag."""
    found = await _model(call, owner, name)
    branches = [_ref("heads", MAIN, commit_of(found.main))] if found.main else []
    tags = [_ref("tags", version.version, commit_of(version)) for version in found.versions]
    return answer({"branches": branches, "converts": [], "tags": tags})


async def auth_check(call: HubCall, owner: str, name: str) -> Response:
    await _model(call, owner, name)
    return answer({})


async def tree(call: HubCall, owner: str, name: str, revision: str, folder: str) -> Response:
    query, folder = call.request.query_params, folder.strip("/")
    branch = await _draft(call, owner, name, revision)
    if branch is not None:
        below = f"{folder}/" if folder else ""
        return answer([_draft_node(path, entry) for path, entry in branch.tree.items() if path.startswith(below)])
    _, version = await readable(call, owner, name, revision)
    below = f"{folder}/" if folder else ""
    inside = [file for file in version.files if file.path.startswith(below)]
    if folder and not inside:
        raise _no_entry(folder, version)
    recursive = query.get("recursive", "").lower() in {"1", "true"}
    listed = list(inside) if recursive else [file for file in inside if "/" not in file.path[len(below) :]]
    entries: list[StoredFile | str] = [*_folders(inside, below, recursive=recursive), *listed]
    entries.sort(key=lambda each: each if isinstance(each, str) else each.path)
    limit, start = min(_number(query.get("limit"), PAGE) or PAGE, PAGE), _number(query.get("cursor"), 0)
    page = entries[start : start + limit]
    nodes = {node["path"]: node for node in await _nodes(call, [each for each in page if not isinstance(each, str)])}
    rows = [_folder(each) if isinstance(each, str) else nodes[each.path] for each in page]
    headers = {}
    if start + limit < len(entries):
        asked = {name: value for name, value in query.items() if name != "cursor"}
        path = f"/api/models/{owner}/{name}/tree/{quote(revision, safe='')}" + (f"/{quote(folder)}" if folder else "")
        url = f"{call.base_url}{path}?{urlencode(asked | {'cursor': str(start + limit)})}"
        headers["Link"] = f'<{url}>; rel="next"'
    return answer(rows, headers=headers)


async def paths_info(call: HubCall, owner: str, name: str, revision: str) -> Response:
    if call.request.headers.get("content-type", "").startswith("application/json"):
        given = (await call.json()).get("paths", [])
    else:
        given = parse_qs((await call.body()).decode("utf-8", "replace")).get("paths", [])
    paths = {path.strip("/") for path in given if isinstance(path, str)}
    _, version = await readable(call, owner, name, revision)
    nodes = await _nodes(call, [file for file in version.files if file.path in paths])
    folders = set(_folders(version.files, "", recursive=True)) & paths
    return answer([*nodes, *map(_folder, sorted(folders))])


async def resolve(call: HubCall, owner: str, name: str, revision: str, path: str) -> Response:
    if (branch := await _draft(call, owner, name, revision)) is not None:
        raise HubError(404, "EntryNotFound", _NOT_YET.format(branch.branch), commit=branch.commit)
    _, version = await readable(call, owner, name, revision)
    file = _file(version, path)
    return await (files.head if call.request.method == "HEAD" else files.send)(call, version, file)


async def raw(call: HubCall, owner: str, name: str, revision: str, path: str) -> Response:
    """The file as git stores it: for a large file, its LFS pointer."""
    _, version = await readable(call, owner, name, revision)
    file = _file(version, path)
    content = pointer(file.sha256, file.size) if is_large(file.size) else await files.contents(call, file)
    headers = {"X-Repo-Commit": version.commit, "Cache-Control": "no-store", "Vary": "Authorization"}
    return Response(content, headers=headers, media_type="text/plain; charset=utf-8")


async def manifest(call: HubCall, owner: str, name: str, tag: str) -> Response:
    """The GGUF file for a tag (a quantization), for ramalama."""
    _, version = await readable(call, owner, name, MAIN)
    ggufs = [file for file in version.files if file.path.lower().endswith(".gguf")]
    wanted = [file for file in ggufs if tag.lower() in file.path.lower()]
    if tag.lower() == "latest":
        wanted = sorted(ggufs, key=lambda file: "q4_k_m" not in file.path.lower())
    if not wanted:
        raise _no_entry(f"{tag} (GGUF)", version)
    file = wanted[0]
    named = {"size": file.size, "digest": f"sha256:{file.sha256}"}
    blob = {"rfilename": file.path, "size": file.size, "blobId": f"sha256:{file.sha256}"}
    return answer(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "layers": [{"mediaType": "application/vnd.ollama.image.model", **named}],
            "ggufFile": blob | {"lfs": {"sha256": file.sha256, "size": file.size}},
        }
    )


async def readable(call: HubCall, owner: str, name: str, revision: str) -> tuple[ReadableModel, ReadableVersion]:
    """A version with its files. Raises HubError."""
    async with call.platform.database.read() as session:
        found = await find_model(session, call.reader, owner, name, now=call.platform.now())
        if found is None:
            raise await _not_there(session, call, owner, name, revision)
        version = found.find(revision) or await drafts.version_of_commit(session, found, revision)
        if version is None:
            raise no_revision(revision)
        return found, await with_files(session, found, version)


async def _not_there(session: AsyncSession, call: HubCall, owner: str, name: str, revision: str) -> HubError:
    """For those who may push it, a model that has only commits so far exists without this revision."""
    reader = call.reader
    is_begun = isinstance(reader, Caller) and may_push(reader, owner) and await drafts.exist(session, reader, name)
    return no_revision(revision) if is_begun else no_repository(reader)


async def _draft(call: HubCall, owner: str, name: str, revision: str) -> Branch | None:
    """The branch, if the reader may push there and it is not a ready version. Its files cannot be downloaded yet."""
    reader = call.reader
    if not isinstance(reader, Caller) or not may_push(reader, owner):
        return None
    async with call.platform.database.read() as session:
        return await drafts.find_draft(session, reader, owner, name, revision, now=call.platform.now())


async def _model(call: HubCall, owner: str, name: str) -> ReadableModel:
    async with call.platform.database.read() as session:
        found = await find_model(session, call.reader, owner, name, now=call.platform.now())
    if found is None:
        raise no_repository(call.reader)
    return found


def _file(version: ReadableVersion, path: str) -> StoredFile:
    found = next((file for file in version.files if file.path == path), None)
    if found is None:
        raise _no_entry(path, version)
    return found


def _no_entry(path: str, version: ReadableVersion) -> HubError:
    """Includes the commit, so that the client can cache that the file does not exist."""
    return HubError(404, "EntryNotFound", f"There is no file `{path[:200]}` here.", commit=version.commit)


async def _nodes(call: HubCall, listed: Sequence[StoredFile]) -> list[dict[str, Any]]:
    oids = await files.git_oids(call, listed)
    return [_node(file, oids) for file in listed]


def _node(file: StoredFile, oids: Mapping[str, str]) -> dict[str, Any]:
    node = {"type": "file", "path": file.path, "size": file.size}
    if not is_large(file.size):
        return node | {"oid": oids[file.sha256]}
    return node | _lfs(file.sha256, file.size)


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": folder_oid(path), "size": 0}


def _folders(inside: Iterable[StoredFile], below: str, *, recursive: bool) -> list[str]:
    """The folders of these files below `below`."""
    found: set[str] = set()
    for file in inside:
        parts = file.path[len(below) :].split("/")[:-1]
        for depth in range(1, (len(parts) if recursive else min(len(parts), 1)) + 1):
            found.add(below + "/".join(parts[:depth]))
    return sorted(found)


def _summary(found: ReadableModel) -> dict[str, Any]:
    model, main = found.model, found.main
    return {
        "_id": model.id.hex[:24],
        "id": found.name,
        "modelId": found.name,
        "author": model.project.slug,
        "sha": commit_of(main) if main else None,
        "private": True,
        "gated": False,
        "disabled": False,
        "tags": _tags(model),
        "downloads": 0,
        "likes": 0,
        "siblings": [],
        "createdAt": _time(model.created_at),
        "lastModified": _time(main.created_at if main else model.created_at),
    }


def _summary_of_draft(branch: Branch) -> dict[str, Any]:
    name = f"{branch.owner}/{branch.name}"
    siblings = [{"rfilename": path} for path in branch.tree]
    said = {"author": branch.owner, "sha": branch.commit, "private": True, "gated": False, "disabled": False}
    return {"id": name, "modelId": name, **said, "tags": [], "siblings": siblings}


def _draft_node(path: str, entry: Entry) -> dict[str, Any]:
    node = {"type": "file", "path": path, "size": entry.size}
    if not is_large(entry.size):
        return node | {"oid": entry.git_oid or entry.sha256[:40]}
    return node | _lfs(entry.sha256, entry.size)


def _lfs(sha256: str, size: int) -> dict[str, Any]:
    text = pointer(sha256, size)
    return {"oid": git_oid(text), "lfs": {"oid": sha256, "size": size, "pointerSize": len(text)}}


def _tags(model: ModelRow) -> list[str]:
    return [*model.tags, *([f"license:{model.license}"] if model.license else [])]


def _ref(kind: str, name: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else otherwise  # noqa: PLR2004 - digits

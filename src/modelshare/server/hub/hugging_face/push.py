"""Routes for pushing: repositories, branches, preuploads and commits. Large files are uploaded by `lfs` or `xet`."""

import base64
import binascii
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from modelshare.server.http import Caller
from modelshare.server.hub.access import MAIN
from modelshare.server.hub.hugging_face import drafts, files
from modelshare.server.hub.hugging_face.calls import HubCall, HubError, answer, bad_request, in_header, no_revision
from modelshare.server.hub.hugging_face.drafts import Branch
from modelshare.server.hub.hugging_face.git_objects import git_oid, is_large
from modelshare.server.hub.hugging_face.trees import Change, Entry
from modelshare.server.registry import service as registry
from modelshare.server.registry.paths import check_path
from modelshare.server.registry.refused import ModelRejectedError, printable
from modelshare.server.registry.uploads import ahead
from modelshare.wire import model_files
from modelshare.wire.left_out import Reason, left_out
from modelshare.wire.uploads import MAX_FILES

LARGEST: Final = 50_000_000_000
"""Maximum bytes of a file: clients cannot download larger ones (huggingface_hub, `MAX_HTTP_DOWNLOAD_SIZE`)."""
_MAX_LINE: Final = 16 << 20
_MAX_INLINE: Final = 8 << 20
"""Maximum bytes of a file inside a commit; larger files must be LFS objects."""
_MAX_COMMIT: Final = 2 << 30
_FLUSH: Final = 16 << 20
"""Bytes of files inside a commit that are held in memory."""


async def create(call: HubCall) -> Response:
    """Creates the branch `main`. The model itself is created with its first version."""
    body = await call.json()
    if body.get("type") not in {None, "model"}:
        raise bad_request("Only models can be pushed here.")
    name, owner = str(body.get("name") or ""), body.get("organization")
    if owner is None and "/" in name:
        owner, _, name = name.partition("/")
    owner = str(owner or call.known.project_slug or "")
    caller = call.writer(owner)
    before = await _branch(call, caller, owner, name, MAIN)
    if not before.exists:
        before = await drafts.start(call.platform, caller, owner, name, MAIN, {})
    url = {"url": f"{call.base_url}/{caller.project_slug}/{before.name}"}
    if before.model is not None or before.draft is not None:
        return answer(url | {"error": "You already have this model."}, 409)
    return answer(url)


async def validate_yaml(call: HubCall) -> Response:
    """Accepts everything: the card is checked when the version is processed."""
    await call.json()
    return answer({"errors": [], "warnings": []})


async def make_branch(call: HubCall, owner: str, name: str, revision: str) -> Response:
    """Creates a branch, which becomes the version of that number, with the files of another revision."""
    caller = call.writer(owner)
    base = await _branch(call, caller, owner, name, str((await call.json()).get("startingPoint") or MAIN))
    there = await _branch(call, caller, owner, name, revision)
    if there.exists:
        raise HubError(409, None, f"`{there.branch}` exists already.")
    await drafts.start(call.platform, caller, owner, name, revision, base.tree)
    return answer({}, 201)


async def make_tag(call: HubCall, owner: str, name: str, revision: str) -> Response:
    """Creates the version `tag` with the files of a revision."""
    caller = call.writer(owner)
    tag = str((await call.json()).get("tag") or "")
    base = await _branch(call, caller, owner, name, revision)
    there = await _branch(call, caller, owner, name, tag)
    if not base.exists:
        raise no_revision(revision)
    if there.is_ready:
        if there.commit == base.commit:
            return answer({}, 201)
        raise HubError(409, None, f"`{there.branch}` exists already.")
    changes = [Change(path, entry) for path, entry in base.tree.items()]
    done = await drafts.record_commit(call.platform, caller, owner, name, tag, changes, None)
    return answer({}, 201, _warning(done.warning))


async def preupload(call: HubCall, owner: str, name: str, revision: str) -> Response:
    """Returns how each file has to be sent, and the ID of the branch's file at its path.

    Rejects files that cannot be pushed before any of their bytes is sent.
    """
    caller = call.writer(owner)
    listed = [_announced(each) for each in _list(await call.json(), "files")]
    _check_paths([path for path, _ in listed], allow_pickle=call.platform.settings.models_allow_pickle)
    if too_large := next((path for path, size in listed if size > LARGEST), None):
        raise bad_request(f"{printable(too_large)} is larger than 50 GB, more than clients can download. Split it.")
    branch = await drafts.announce(call.platform, caller, owner, name, revision, [path for path, _ in listed])
    if branch.is_final and any(path not in branch.tree or branch.tree[path].size != size for path, size in listed):
        raise drafts.cannot_change(branch)
    oids = await _oids(call, caller, branch, [path for path, _ in listed])
    return answer(
        {
            "files": [
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large(size) else "regular",
                    "shouldIgnore": False,
                    "oid": oids.get(path),
                }
                for path, size in listed
            ]
        }
    )


async def commit(call: HubCall, owner: str, name: str, revision: str) -> Response:
    caller = call.writer(owner)
    drafts.branch_name(revision)
    if call.request.query_params.get("create_pr"):
        raise bad_request("There are no pull requests here. Push to `main` or to a version.")
    reading = _Reading(call, caller, name)
    async for line in _lines(call):
        await reading.take(line)
    await reading.flush()
    changes = await reading.checked()
    done = await drafts.record_commit(call.platform, caller, owner, name, revision, changes, reading.parent)
    body = {
        "success": True,
        "commitOid": done.commit,
        "commitUrl": f"{call.base_url}/{owner}/{name}/commit/{done.commit}",
    }
    return answer(body | {"pullRequestUrl": None}, headers=_warning(done.warning))


class _Reading:
    """Reads a commit as a stream, and stores small files on the way, so that it is never in memory as a whole."""

    def __init__(self, call: HubCall, caller: Caller, name: str) -> None:
        self.parent: str | None = None
        self._call, self._caller, self._name = call, caller, name
        self._changes: list[Change] = []
        self._unsized: list[Change] = []
        self._contents: dict[str, bytes] = {}

    async def take(self, line: bytes) -> None:
        key, value = _operation(line)
        if key == "header":
            self.parent = value.get("parentCommit")
            return
        path = value.get("path")
        if not isinstance(path, str):
            raise bad_request("A line of the commit names no path.")
        if key in {"deletedFile", "deletedFolder"}:
            self._changes.append(Change(path, is_folder=key == "deletedFolder"))
            return
        _check_paths([path], allow_pickle=True)
        if len(self._changes) >= MAX_FILES:
            raise bad_request(f"A commit has at most {MAX_FILES:,} files.")
        if key == "lfsFile":
            oid, size = value.get("oid"), value.get("size")
            if value.get("algo", "sha256") != "sha256" or not is_sha256(oid) or not _is_size(size, optional=True):
                raise bad_request(f"The LFS object of {printable(path)} is named wrongly.")
            self._changes.append(Change(path, Entry(str(oid), -1 if size is None else size)))
        elif key == "file":
            content = _content(value)
            sha256 = hashlib.sha256(content).hexdigest()
            oid = None if is_large(len(content)) else git_oid(content)
            self._changes.append(Change(path, Entry(sha256, len(content), oid)))
            self._contents[sha256] = content
            if sum(map(len, self._contents.values())) > _FLUSH:
                await self.flush()
        else:
            raise bad_request(f"The commit has a line of the unknown kind `{key[:40]}`.")

    async def flush(self) -> None:
        """Stores the files that are held in memory."""
        contents = {sha256: content for sha256, content in self._contents.items() if content}
        self._contents = {}
        await store_contents(self._call, self._caller, self._name, contents)

    async def checked(self) -> list[Change]:
        """The changes with missing sizes filled in. Raises HubError if a file's content has not been uploaded."""
        platform = self._call.platform
        entries = {change.entry.sha256: change.entry for change in self._changes if change.entry and change.entry.size}
        unsized = {sha256 for sha256, entry in entries.items() if entry.size < 0}
        known = await ahead.sizes(platform, self._caller, self._name, unsized) if unsized else {}
        sizes = {sha256: known.get(sha256, entry.size) for sha256, entry in entries.items()}
        there = await ahead.stored(platform, self._caller, self._name, sizes, anywhere=True)
        for change in self._changes:
            if change.entry is not None and change.entry.size and change.entry.sha256 not in there:
                raise bad_request(f"The content of {printable(change.path)} has not been uploaded. Push again.")
        return [
            Change(each.path, Entry(each.entry.sha256, sizes[each.entry.sha256]))
            if each.entry and each.entry.size < 0
            else each
            for each in self._changes
        ]


async def store_contents(call: HubCall, caller: Caller, name: str, contents: Mapping[str, bytes]) -> None:
    """Stores files from inside a commit, by their verified SHA-256."""
    sizes = {sha256: len(content) for sha256, content in contents.items()}
    there = await ahead.stored(call.platform, caller, name, sizes)
    missing = {sha256: size for sha256, size in sizes.items() if sha256 not in there}
    places = await ahead.begin(call.platform, caller, name, missing)
    await ahead.write_all(call.platform, [(place, contents[sha256]) for sha256, place in places.items()])


async def _branch(call: HubCall, caller: Caller, owner: str, name: str, revision: str) -> Branch:
    async with call.platform.database.read() as session:
        return await drafts.find(session, caller, owner, name, revision, now=call.platform.now())


async def _oids(call: HubCall, caller: Caller, branch: Branch, paths: Iterable[str]) -> dict[str, str]:
    """IDs of the branch's files at these paths: SHA-256 of large files, git object IDs of small ones.

    Clients do not send files that have the ID of theirs. So there is none for files that a commit cannot take along.
    """
    entries = {path: branch.tree[path] for path in paths if path in branch.tree}
    kept = await ahead.kept_by_owner(call.platform, caller, {entry.sha256 for entry in entries.values()})
    entries = {path: entry for path, entry in entries.items() if entry.sha256 not in kept}
    small = {path for path, entry in entries.items() if not is_large(entry.size) and entry.git_oid is None}
    read: Mapping[str, str] = {}
    if small and branch.is_ready and branch.model is not None:
        version = branch.model.find(branch.branch)
        async with call.platform.database.read() as session:
            stored = await registry.stored_files(session, version.id) if version else []
        read = await files.git_oids(call, [file for file in stored if file.path in small])
    named = {
        path: entry.sha256 if is_large(entry.size) else entry.git_oid or read.get(entry.sha256)
        for path, entry in entries.items()
    }
    return {path: oid for path, oid in named.items() if oid}


async def _lines(call: HubCall) -> AsyncIterator[bytes]:
    held, taken = bytearray(), 0
    async for chunk in call.request.stream():
        taken += len(chunk)
        held += chunk
        *complete, rest = held.split(b"\n")
        held = bytearray(rest)
        if len(held) > _MAX_LINE or taken > _MAX_COMMIT:
            raise HubError(413, None, "The commit is too large. Push in several commits.")
        for line in complete:
            if line.strip():
                yield bytes(line)
    if held.strip():
        yield bytes(held)


def _operation(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        read = json.loads(line)
        key, value = read["key"], read["value"]
    except (ValueError, TypeError, KeyError, RecursionError):
        key = value = None
    if not isinstance(key, str) or not isinstance(value, dict):
        raise bad_request("Each line of the commit must be a JSON object with `key` and `value`.")
    return key, value


def _content(value: Mapping[str, Any]) -> bytes:
    text = value.get("content")
    if not isinstance(text, str) or value.get("encoding", "base64") != "base64":
        raise bad_request("A file within a commit needs its content in base64.")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("A file of the commit has invalid base64 content.") from None
    if len(content) > _MAX_INLINE:
        raise HubError(
            413, None, f"A file within a commit has at most {_MAX_INLINE:,} bytes; send it as an LFS object."
        )
    return content


def _announced(each: object) -> tuple[str, int]:
    path, size = (each.get("path"), each.get("size")) if isinstance(each, dict) else (None, None)
    if not isinstance(path, str) or not isinstance(size, int) or not _is_size(size):
        raise bad_request("Each of `files` needs `path` and `size`.")
    return path, size


def _list(body: Mapping[str, Any], name: str) -> Sequence[object]:
    found = body.get(name)
    if not isinstance(found, list) or len(found) > MAX_FILES:
        raise bad_request(f"`{name}` must be a list of at most {MAX_FILES:,} entries.")
    return found


def _check_paths(paths: Sequence[str], *, allow_pickle: bool) -> None:
    """Raises HubError for paths that no version may contain, with the same messages as any push."""
    for path in paths:
        try:
            check_path(path)
        except ModelRejectedError as refused:
            raise bad_request(refused.reason) from refused
        found = left_out(path)
        if found is not None and found.reason is not Reason.SYSTEM:
            raise bad_request(
                f"{printable(path)} is left out of models ({found.reason}). Push again without it (`--exclude`)."
            )
    if not allow_pickle and (words := model_files.pickle_refusal(paths)):
        raise bad_request(words)


def is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")  # noqa: PLR2004 - digits


def _is_size(value: object, *, optional: bool = False) -> bool:
    if value is None:
        return optional
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1 << 53


def _warning(text: str | None) -> dict[str, str]:
    return {"X-HF-Warning": f"modelshare; {in_header(text)}"} if text else {}

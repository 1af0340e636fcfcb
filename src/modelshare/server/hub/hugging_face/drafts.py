"""Branches that clients commit to: their content until it is a ready version, and how it becomes one."""

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from modelshare.server.db import advisory_lock
from modelshare.server.errors import ApiError, refusal_of
from modelshare.server.http import Caller, Platform
from modelshare.server.hub import queries
from modelshare.server.hub.access import MAIN, ReadableModel, commit_of, find_model
from modelshare.server.hub.hugging_face import trees
from modelshare.server.hub.hugging_face.calls import HubError, bad_request
from modelshare.server.hub.hugging_face.trees import Change, Entry, Tree
from modelshare.server.hub.tables import DraftRow
from modelshare.server.registry import service as registry
from modelshare.server.registry.service import StoredFile
from modelshare.server.registry.tables import VersionRow
from modelshare.server.registry.uploads import ahead, completing, service
from modelshare.wire.models import ModelStatus
from modelshare.wire.semver import is_version
from modelshare.wire.uploads import UploadOpen

WAIT_SECONDS: Final = 25.0
"""How long a commit waits for its version, so that the client learns whether it was accepted."""
_LOOK_SECONDS: Final = 0.1
_UNDER_WAY: Final = frozenset({ModelStatus.UPLOADING, ModelStatus.PROCESSING})


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch and its current files."""

    owner: str
    name: str
    branch: str
    """`main`, or a version."""
    tree: Tree
    commit: str
    model: ReadableModel | None
    draft: DraftRow | None
    is_ready: bool = False
    """Whether its content is a ready version. A branch other than `main` cannot change then."""
    exists: bool = True

    @property
    def is_final(self) -> bool:
        return self.is_ready and self.branch != MAIN


def branch_name(revision: str) -> str:
    """`main` or a version number. Raises HubError for anything else."""
    version = revision[1:] if revision.startswith("v") and is_version(revision[1:]) else revision
    if version == MAIN or (is_version(version)):
        return version
    raise bad_request(f"`{revision[:100]}` is not a version. Push to `main`, or to a semantic version such as 1.2.0.")


async def find(session: AsyncSession, caller: Caller, owner: str, name: str, revision: str, *, now: int) -> Branch:
    """The current state of the branch. `exists` is false if nobody created it."""
    branch = branch_name(revision)
    found = await find_model(session, caller, owner, name, now=now)
    name = found.model.name if found else name
    ready = found.find(branch) if found else None
    draft = await queries.draft(session, caller.project, registry.name_key(name), branch)
    published = tree_of(await registry.stored_files(session, ready.id)) if ready is not None else None
    if draft is not None and await _is_open(session, draft):
        tree = trees.of_json(draft.tree)
        # Files were only announced, or a commit was refused: then the branch is still the published version.
        if published is None or draft.version_id is not None or not trees.same(tree, published):
            return Branch(owner, name, branch, tree, draft.commit, found, draft)
    if ready is not None and published is not None:
        return Branch(owner, name, branch, published, commit_of(ready), found, draft, is_ready=True)
    there = draft is not None or (found is not None and branch == MAIN)
    return Branch(owner, name, branch, {}, trees.commit_of(branch, {}), found, draft, exists=there)


async def find_draft(
    session: AsyncSession, caller: Caller, owner: str, name: str, revision: str, *, now: int
) -> Branch | None:
    """The branch with this name or commit, if it exists and is not a ready version."""
    for row in await queries.drafts(session, caller.project, registry.name_key(name)):
        if revision in {row.branch, f"v{row.branch}", row.commit}:
            branch = await find(session, caller, owner, name, row.branch, now=now)
            return None if branch.is_ready else branch
    if revision == MAIN:
        branch = await find(session, caller, owner, name, revision, now=now)
        return branch if branch.exists and not branch.is_ready else None
    return None


async def exist(session: AsyncSession, caller: Caller, name: str) -> bool:
    """Whether there are branches of a model with this name."""
    return bool(await queries.drafts(session, caller.project, registry.name_key(name)))


async def version_of_commit(session: AsyncSession, found: ReadableModel, commit: str) -> VersionRow | None:
    """The version that was made of a commit before it had a manifest."""
    for row in await queries.drafts(session, found.model.project_id, registry.name_key(found.model.name)):
        if row.commit == commit and row.version_id is not None:
            return next((each for each in found.versions if each.id == row.version_id), None)
    return None


async def end_expired(platform: Platform) -> None:
    """Deletes branches that have expired without a new commit. Run it every minute or so."""
    async with platform.database.write() as session:
        await queries.delete_expired_drafts(session, platform.now())


async def start(platform: Platform, caller: Caller, owner: str, name: str, revision: str, base: Tree) -> Branch:
    """Creates a branch with these files unless it exists. Raises HubError for an invalid model name."""
    async with platform.database.write() as session:
        there = await _locked(session, platform, caller, owner, name, revision)
        if there.exists:
            return there
        if there.model is None:
            await _check_name(session, caller, name)
        save(session, platform, caller, there, base)
    return there


def save(
    session: AsyncSession,
    platform: Platform,
    caller: Caller,
    branch: Branch,
    tree: Tree,
    announced: Mapping[str, int] | None = None,
) -> DraftRow:
    """Stores the branch's content, which is not a version yet."""
    row = branch.draft
    if row is None:
        row = DraftRow(
            project_id=caller.project,
            name=branch.name,
            name_key=registry.name_key(branch.name),
            branch=branch.branch,
            announced={},
        )
        session.add(row)
    row.tree, row.commit, row.version_id = trees.to_json(tree), trees.commit_of(branch.branch, tree), None
    row.expires_at = platform.now() + platform.settings.uploads_expire_seconds
    row.announced = dict(row.announced if announced is None else announced)
    return row


async def announce(
    platform: Platform, caller: Caller, owner: str, name: str, revision: str, paths: Collection[str]
) -> Branch:
    """Stores which files a client is going to send. Returns the branch before that."""
    at = int(platform.clock() * 1000)
    async with platform.database.write() as session:
        branch = await _locked(session, platform, caller, owner, name, revision)
        if branch.is_final:
            return branch
        if branch.model is None and branch.draft is None:
            await _check_name(session, caller, name)
        said = dict(branch.draft.announced) if branch.draft else {}
        version_id = branch.draft.version_id if branch.draft else None
        row = save(session, platform, caller, branch, branch.tree, said | dict.fromkeys(paths, at))
        row.version_id = version_id
    return branch


@dataclass(frozen=True, slots=True)
class Committed:
    commit: str
    warning: str | None = None


async def record_commit(
    platform: Platform,
    caller: Caller,
    owner: str,
    name: str,
    revision: str,
    changes: Sequence[Change],
    parent: str | None,
) -> Committed:
    """Commits to the branch, and publishes its content as a version once it is complete; on `main` as the next one.

    If the version is rejected, raises the reason and restores the branch.
    """
    async with platform.database.write() as session:
        branch = await _locked(session, platform, caller, owner, name, revision)
        if parent is not None and parent != branch.commit:
            raise HubError(
                412, None, f"`{branch.branch}` has changed since {parent[:40]}. Read it again, and push again."
            )
        tree = trees.apply(branch.tree, changes)
        is_same = trees.same(tree, branch.tree) and branch.exists
        if not is_same or not (branch.is_ready or _version_id(branch)):
            row, rest = await _change(session, platform, caller, branch, tree, changes)
            is_same = False
    if is_same:
        version_id = _version_id(branch)
        return await _outcome(platform, version_id, branch.commit) if version_id else Committed(branch.commit)
    if rest:
        return Committed(row.commit)
    if (missing := trees.why_not_complete(tree)) is not None:
        return Committed(
            row.commit, f"Kept, but not a version yet: {missing} It becomes one with the commit that adds it."
        )
    try:
        version_id = await _publish(platform, caller, branch, row, tree)
        return await _outcome(platform, version_id, row.commit)
    except (HubError, ApiError):
        async with platform.database.write() as session:
            again = await _locked(session, platform, caller, owner, name, revision)
            if again.draft is not None and again.draft.commit == row.commit:
                await _undo(session, platform, caller, again, branch)
        raise


async def _change(
    session: AsyncSession,
    platform: Platform,
    caller: Caller,
    branch: Branch,
    tree: Tree,
    changes: Sequence[Change],
) -> tuple[DraftRow, dict[str, int]]:
    """Stores the new tree. Also returns the files that the client has announced and not committed yet."""
    if branch.is_final:
        raise cannot_change(branch)
    if branch.model is None and branch.draft is None:
        await _check_name(session, caller, branch.name)
    paths = {change.path for change in changes if change.entry is not None}
    rest = trees.still_to_come(branch.draft.announced if branch.draft else {}, paths, branch.tree)
    return save(session, platform, caller, branch, tree, rest), rest


def _version_id(branch: Branch) -> uuid.UUID | None:
    """The ID of the branch's version that is not ready yet."""
    return branch.draft.version_id if branch.draft is not None and not branch.is_ready else None


async def _publish(platform: Platform, caller: Caller, branch: Branch, row: DraftRow, tree: Tree) -> uuid.UUID:
    """Creates a version from the tree by a normal upload whose files have all been sent."""
    files = [{"path": path, "size": entry.size, "sha256": entry.sha256} for path, entry in sorted(tree.items())]
    is_main = branch.branch == MAIN
    fields = {"name": branch.name, "files": files} | ({"make_latest": True} if is_main else {"version": branch.branch})
    try:
        request = UploadOpen.model_validate(fields)
    except ValidationError as error:
        raise refusal_of(dict(error.errors()[0])) from error
    await ahead.bring(
        platform, caller, branch.name, {entry.sha256: entry.size for entry in tree.values() if entry.size}
    )
    upload, _ = await service.open_upload(platform, caller, request)
    await completing.complete(platform, caller, upload.id, ())
    async with platform.database.write() as session:
        model = await registry.find_named(session, caller.project, branch.name)
        found = await registry.find(session, caller, model) if model else None
        version = registry.version_of(found, upload.version) if found else None
        there = await queries.draft(session, caller.project, registry.name_key(branch.name), branch.branch)
        if there is not None and version is not None and there.commit == row.commit:
            there.version_id = version.id
    if version is None:
        raise bad_request("The model was deleted meanwhile. Push again.")
    return version.id


async def _outcome(platform: Platform, version_id: uuid.UUID, commit: str) -> Committed:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_SECONDS
    while loop.time() < deadline:
        async with platform.database.read() as session:
            now = await registry.find_version(session, version_id)
        if now is None:
            raise bad_request("The version was deleted meanwhile. Push again.")
        if now.status == ModelStatus.READY:
            return Committed(commit_of(now))
        if now.status == ModelStatus.FAILED:
            raise bad_request(f"Version {now.version} was not accepted: {now.status_reason}")
        await asyncio.sleep(_LOOK_SECONDS)
    return Committed(commit, "The version is still being checked. `modelshare models` says when it is ready.")


async def _undo(session: AsyncSession, platform: Platform, caller: Caller, now: Branch, before: Branch) -> None:
    if before.draft is None and now.draft is not None:
        await session.delete(now.draft)
    else:
        save(session, platform, caller, now, before.tree)


async def _locked(
    session: AsyncSession, platform: Platform, caller: Caller, owner: str, name: str, revision: str
) -> Branch:
    await advisory_lock(session, f"hub {caller.project} {registry.name_key(name)}")
    return await find(session, caller, owner, name, revision, now=platform.now())


async def _check_name(session: AsyncSession, caller: Caller, name: str) -> None:
    """Raises HubError or ConflictError if a new model cannot have this name."""
    try:
        UploadOpen.model_validate({"name": name, "files": [{"path": "x", "size": 0}]})
    except ValidationError as error:
        raise refusal_of(dict(error.errors()[0])) from error
    if (taken := await registry.name_conflict(session, caller.project, name)) is not None:
        raise taken


async def _is_open(session: AsyncSession, draft: DraftRow) -> bool:
    """Whether the draft is newer than the branch's ready version: unpublished, or being processed."""
    if draft.version_id is None:
        return bool(draft.tree)
    version = await registry.find_version(session, draft.version_id)
    return version is not None and version.status in _UNDER_WAY


def tree_of(files: Sequence[StoredFile]) -> dict[str, Entry]:
    return {file.path: Entry(file.sha256, file.size) for file in files}


def cannot_change(branch: Branch) -> HubError:
    return HubError(
        403,
        None,
        f"Version {branch.branch} is published, and versions never change. Push to `main`, or to another version.",
    )

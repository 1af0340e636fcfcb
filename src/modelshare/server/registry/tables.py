"""Models, versions, their files and blobs, and uploads."""

import uuid
from typing import Any, Final

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id
from modelshare.server.storage.stores import PLATFORM


def _name_key(context: Any) -> str:
    return key_of(context.get_current_parameters()["name"])


SELECTION = "selection"
"""In a version's facts until it is ready: the include and exclude patterns of its push, for an archive."""
LEFT_OUT = "left_out"
"""In a version's facts until it is ready: a note about files of its archive that were left out."""

SOURCE = "source"
"""In a version's facts: where its files were imported from, as `wire.models.ModelSource`."""
SOURCE_LICENSE = "source_license"
"""In a version's facts until it is ready: the licence that its source states."""


def key_of(name: str) -> str:
    """Equal for names that differ only in case. Names are ASCII, so every database folds them in the same way."""
    return name.lower()


class ModelRow(Table):
    """A model and its description."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        UniqueConstraint("project_id", "name_key"),
        CheckConstraint("foreign_endpoints <= active_endpoints", name="foreign_endpoints"),
        CheckConstraint("foreign_endpoints >= 0", name="foreign_endpoints_count"),
        CheckConstraint("shared_tier_endpoints BETWEEN 0 AND active_endpoints", name="shared_tier_endpoints"),
        Index("ix_models_project_id_id", "project_id", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    display_name: Mapped[str | None]
    description: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(JsonColumn, default=list)
    license: Mapped[str | None]
    card: Mapped[str | None]
    created_at: Mapped[int]
    active_endpoints: Mapped[int] = mapped_column(default=0)
    """Active endpoints of all projects; written by `service.set_usage`, recounted each time, never incremented."""
    foreign_endpoints: Mapped[int] = mapped_column(default=0)
    """Those of projects other than the owner's."""
    shared_tier_endpoints: Mapped[int] = mapped_column(default=0)
    """Those on shared tiers."""
    name_key: Mapped[str | None] = mapped_column(default=_name_key)
    """`key_of` its name, unique in the project. None for one of two older models whose names differ only in case."""

    project: Mapped[ProjectRow] = relationship(lazy="raise")
    versions: Mapped[list["VersionRow"]] = relationship(
        back_populates="model", lazy="raise", passive_deletes="all", order_by="VersionRow.id"
    )


class VersionRow(Table):
    """A version of a model; it has a manifest once it is ready."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "version"),
        # A model has at most one latest version.
        Index(
            "uq_model_versions_latest",
            "model_id",
            unique=True,
            sqlite_where=text("is_latest"),
            postgresql_where=text("is_latest"),
        ),
        CheckConstraint("status IN ('uploading', 'processing', 'ready', 'failed')", name="status"),
        CheckConstraint("status <> 'ready' OR manifest IS NOT NULL", name="ready_has_manifest"),
        CheckConstraint("NOT is_latest OR status = 'ready'", name="latest_is_ready"),
        CheckConstraint("signature_state IN ('none', 'valid', 'unknown_signer', 'invalid')", name="signature_state"),
        CheckConstraint("(signature_state = 'valid') = (signer IS NOT NULL)", name="valid_has_signer"),
        CheckConstraint("digests IN ('platform', 'holder', 'owner')", name="digests"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    version: Mapped[str]
    """Semantic version."""
    status: Mapped[str]
    status_reason: Mapped[str | None]
    is_latest: Mapped[bool] = mapped_column(default=False)
    make_latest: Mapped[bool | None]
    """Whether it should become the latest; None: if it is higher. See `latest.py`."""
    manifest: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The canonical bytes."""
    manifest_digest: Mapped[str | None]
    size_bytes: Mapped[int | None]
    facts: Mapped[dict[str, Any]] = mapped_column(JsonColumn, default=dict)
    """The result of inspection, `registry.inspection.Facts` as JSON. The columns below repeat what lists filter by."""
    format: Mapped[str | None]
    architecture: Mapped[str | None]
    family: Mapped[str | None]
    parameters: Mapped[int | None]
    context_length: Mapped[int | None]
    quantization: Mapped[str | None]
    task: Mapped[str | None]
    created_at: Mapped[int]
    file: Mapped[str | None]
    """The file that the push selected as the model, if there are several."""
    latest_note: Mapped[str | None]
    """Why it did not become the latest when it became ready."""
    notes: Mapped[str | None]
    """The owner's notes about this version."""
    signature_state: Mapped[str] = mapped_column(default="none", server_default="none")
    """`wire.signers.SignatureState`, judged by the signers of the model's project; see `signatures.service`."""
    signer: Mapped[str | None]
    """The name of the signer of a valid signature in the model's project."""
    signature_key: Mapped[str | None]
    """The id of the key that is proven to have signed all files, whichever project registered it."""
    signature_problem: Mapped[str | None]
    """Why the signature is invalid."""
    digests: Mapped[str] = mapped_column(default="platform", server_default="platform")
    """Who computed the digests of the files: the platform, the `holder` that keeps them, or their `owner`, who pushed
    them to a bucket of their own."""

    model: Mapped[ModelRow] = relationship(back_populates="versions", lazy="raise")
    files: Mapped[list["FileRow"]] = relationship(lazy="raise", passive_deletes="all", order_by="FileRow.path")


class DeletedVersionRow(Table):
    """The number of a deleted version that was ready once. It must not be reused for different bytes."""

    __tablename__ = "deleted_versions"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    manifest_digest: Mapped[str | None]
    deleted_at: Mapped[int]


class SignerRow(Table):
    """A public key whose signatures a project vouches for."""

    __tablename__ = "signers"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        UniqueConstraint("project_id", "key_id"),
        Index("ix_signers_key_id", "key_id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str]
    public_key: Mapped[str]
    """PEM."""
    key_id: Mapped[str]
    """`wire.signing.key_id`."""
    created_at: Mapped[int]


class SignatureRow(Table):
    """A version's signature. What it is worth, the version's own columns say."""

    __tablename__ = "version_signatures"
    __table_args__ = (Index("ix_version_signatures_key_id", "key_id"),)

    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    bundle: Mapped[bytes] = mapped_column(LargeBinary)
    key_id: Mapped[str]
    """The key that it claims to be made with."""
    public_key: Mapped[str | None]
    """That key in PEM form, once somebody has registered it."""


DAMAGED: Final = 0
"""`BlobRow.proven_at` of bytes that were found not to match their digest."""


class BlobRow(Table):
    """Stored bytes of a project, by digest. Not shared between projects: knowing a digest must not give access."""

    __tablename__ = "blobs"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    key: Mapped[str]
    """Where in that storage."""
    created_at: Mapped[int]
    proven_at: Mapped[int | None]
    """When the server last read the bytes and verified the digest; None for what it has not read: held files, some that
    were pushed to a project's bucket, and blobs older than this column."""
    storage: Mapped[str] = mapped_column(primary_key=True, default=PLATFORM, server_default=PLATFORM)
    """The platform's own, or the id of a row of `storages`."""
    pin: Mapped[str | None]
    """Version id or ETag of an object that others can replace; None: only the platform writes it."""


class FileRow(Table):
    """A file of a version."""

    __tablename__ = "version_files"
    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "storage", "sha256"], ["blobs.project_id", "blobs.storage", "blobs.sha256"]
        ),
        Index("ix_version_files_blob", "project_id", "storage", "sha256"),
    )

    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    sha256: Mapped[str]
    size: Mapped[int]
    storage: Mapped[str] = mapped_column(default=PLATFORM, server_default=PLATFORM)
    pin: Mapped[str | None]
    """Of this file, where it lies in place: files with equal bytes share a blob, but each may change by itself."""


class RegisteredFileRow(Table):
    """A file of a version that lies in place and is still to be read; then it becomes a `FileRow`."""

    __tablename__ = "registered_files"
    __table_args__ = (Index("ix_registered_files_storage", "storage"),)

    version_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int]
    etag: Mapped[str]
    """When it was registered."""
    storage: Mapped[str]


class UploadRow(Table):
    """An upload session. It outlives its version, so it repeats the names of the model and the version."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_project_id_id", "project_id", "id"),
        Index("ix_uploads_state_expires_at", "state", "expires_at"),
        Index("ix_uploads_version_id", "version_id"),
        CheckConstraint("state IN ('open', 'completed', 'cancelled', 'expired')", name="state"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    version_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_versions.id", ondelete="SET NULL"))
    model_id: Mapped[uuid.UUID]
    model_name: Mapped[str]
    version_name: Mapped[str]
    archive: Mapped[str | None]
    """File name of the archive; None if files are sent individually."""
    state: Mapped[str]
    part_size: Mapped[int]
    bytes_total: Mapped[int]
    created_at: Mapped[int]
    expires_at: Mapped[int]
    digests: Mapped[dict[str, Any] | None]
    """Digests from the request that completed it: `FileDigest` by number of the file, without empty fields."""
    storage: Mapped[str] = mapped_column(default=PLATFORM, server_default=PLATFORM)
    """Where its bytes go: the project's storage when it was opened."""

    files: Mapped[list["UploadFileRow"]] = relationship(lazy="raise", passive_deletes="all", order_by="UploadFileRow.n")


class UploadFileRow(Table):
    """A file of a session. It is uploaded to `key`, or the project already stores the same bytes (`reused`).

    The rows are deleted when the bytes have become blobs or garbage. Only the storage knows which parts are stored.
    """

    __tablename__ = "upload_files"

    upload_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str | None]
    """As computed by the client; verified by processing."""
    key: Mapped[str]
    """The key in storage."""
    multipart_id: Mapped[str] = mapped_column(default="")
    """The storage's ID for the upload of this file; empty until the first part is sent."""
    reused: Mapped[bool] = mapped_column(default=False)


class StagedFileRow(Table):
    """A file that was sent before the upload it is for was opened, known by its digest; that upload takes it over."""

    __tablename__ = "staged_files"
    __table_args__ = (Index("ix_staged_files_expires_at", "expires_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    """The client's claim; checked by processing."""
    storage: Mapped[str] = mapped_column(primary_key=True, default=PLATFORM, server_default=PLATFORM)
    """The project's storage when the file was announced."""
    name_key: Mapped[str] = mapped_column(primary_key=True)
    """Of the model that it was sent for, so that pushes of different models do not depend on each other."""
    id: Mapped[uuid.UUID] = mapped_column(unique=True, default=new_id)
    size: Mapped[int]
    key: Mapped[str]
    """Where in that storage; no other file has this prefix."""
    multipart_id: Mapped[str]
    part_size: Mapped[int]
    expires_at: Mapped[int]


class GarbageRow(Table):
    """Bytes without any reference that a job will delete from storage."""

    __tablename__ = "garbage"
    __table_args__ = (Index("ix_garbage_project_id", "project_id"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str]
    key: Mapped[str]
    """A key in storage or, with `/` at its end, a prefix."""
    storage: Mapped[str] = mapped_column(default=PLATFORM, server_default=PLATFORM)
    not_before: Mapped[int | None]
    """When it may be deleted; None: at once. Until then somebody may be reading it by a signed URL."""


class DeletionHoldRow(Table):
    """While one is in force, no bytes are deleted from storage: a backup copies what its snapshot of the database
    names."""

    __tablename__ = "deletion_holds"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    until: Mapped[int]

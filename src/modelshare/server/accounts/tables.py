"""Projects, keys and their values; people, sessions, memberships and invitations."""

import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from modelshare.server.db import JsonColumn, Table
from modelshare.server.ids import new_id, new_project_id
from modelshare.wire.keys import KeyLimits


class ProjectRow(Table):
    """A tenant."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("slug"),)

    id: Mapped[str] = mapped_column(primary_key=True, default=new_project_id)
    name: Mapped[str]
    slug: Mapped[str]
    quota_bytes: Mapped[int | None]
    """None: the platform's default."""
    created_at: Mapped[int]
    require_signature: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It shares and deploys signed versions only."""
    allowed_signers: Mapped[list[str]] = mapped_column(JsonColumn, default=list, server_default="[]")
    """Ids of the keys whose signatures count for what it deploys of others; none: those of each model's owner."""
    monthly_budget: Mapped[int | None]
    """What it may spend in a month, in millionths of the platform's currency; None: no limit."""


class KeyRow(Table):
    """A key. Its values are in a separate table, since a rotated key has two for a day."""

    __tablename__ = "keys"
    __table_args__ = (Index("ix_keys_project_id", "project_id"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    """None: a platform key."""
    name: Mapped[str]
    hint: Mapped[str]
    scopes: Mapped[list[str]]
    allowed_ips: Mapped[list[str]]
    endpoint: Mapped[str | None]
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    revoked_at: Mapped[int | None]
    last_used_at: Mapped[int | None]
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    monthly_token_budget: Mapped[int | None]
    suspended_at: Mapped[int | None]
    """None unless it is refused until somebody resumes it."""

    project: Mapped[ProjectRow | None] = relationship(lazy="raise")

    @property
    def limits(self) -> KeyLimits:
        return KeyLimits(self.requests_per_minute, self.tokens_per_minute, self.monthly_token_budget)


class KeyValueRow(Table):
    """One value of a key: its SHA-256, never the value."""

    __tablename__ = "key_values"
    __table_args__ = (Index("ix_key_values_key_id", "key_id"),)

    hash: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("keys.id", ondelete="CASCADE"))
    expires_at: Mapped[int | None]
    """Until when an old value stays valid after a rotation."""

    key: Mapped[KeyRow] = relationship(lazy="raise")


class PersonRow(Table):
    """A user."""

    __tablename__ = "people"
    __table_args__ = (UniqueConstraint("email"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    email: Mapped[str]
    """In lower case."""
    name: Mapped[str]
    password_hash: Mapped[str]
    """argon2id, as a PHC string."""
    is_admin: Mapped[bool] = mapped_column(default=False)
    """Whether they may do on the dashboard what a platform key may."""
    created_at: Mapped[int]


class SessionRow(Table):
    """A session in a browser: the SHA-256 of its cookie, not the cookie."""

    __tablename__ = "sessions"
    __table_args__ = (Index("ix_sessions_person_id", "person_id"), Index("ix_sessions_expires_at", "expires_at"))

    hash: Mapped[str] = mapped_column(primary_key=True)
    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))
    created_at: Mapped[int]
    expires_at: Mapped[int]

    person: Mapped[PersonRow] = relationship(lazy="raise")


class MemberRow(Table):
    """A membership: a person's role in a project."""

    __tablename__ = "members"
    __table_args__ = (
        CheckConstraint("role IN ('owner', 'member')", name="role"),
        Index("ix_members_person_id", "person_id"),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str]
    added_at: Mapped[int]

    project: Mapped[ProjectRow] = relationship(lazy="raise")
    person: Mapped[PersonRow] = relationship(lazy="raise")


class InvitationRow(Table):
    """An invitation link for one person; the row is deleted when it is used or revoked."""

    __tablename__ = "invitations"
    __table_args__ = (
        UniqueConstraint("hash"),
        CheckConstraint("role IN ('owner', 'member')", name="role"),
        Index("ix_invitations_project_id", "project_id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    hash: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[int]
    expires_at: Mapped[int]

    project: Mapped[ProjectRow] = relationship(lazy="raise")

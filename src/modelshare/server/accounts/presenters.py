"""Views of people, memberships and invitations, for pages and other domains."""

import uuid
from dataclasses import dataclass

from modelshare.server.accounts.rules import MemberRole
from modelshare.server.accounts.tables import InvitationRow, MemberRow, PersonRow


@dataclass(frozen=True, slots=True)
class Person:
    """A user."""

    id: uuid.UUID
    email: str
    name: str
    is_admin: bool
    """Whether they are an admin of the platform."""
    created_at: int

    @property
    def actor(self) -> str:
        """For the audit log."""
        return f"person:{self.id}"


@dataclass(frozen=True, slots=True)
class Membership:
    """A person's project and their role in it."""

    project_id: str
    slug: str
    name: str
    """The project's."""
    role: MemberRole


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member of a project."""

    person_id: uuid.UUID
    name: str
    email: str
    role: MemberRole
    added_at: int


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An unused invitation."""

    id: uuid.UUID
    role: MemberRole
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Invited:
    """The project and role of an invitation."""

    project_id: str
    slug: str
    project_name: str
    role: MemberRole


def person_view(row: PersonRow) -> Person:
    return Person(id=row.id, email=row.email, name=row.name, is_admin=row.is_admin, created_at=row.created_at)


def membership_view(row: MemberRow) -> Membership:
    return Membership(row.project_id, row.project.slug, row.project.name, MemberRole(row.role))


def member_view(row: MemberRow) -> MemberView:
    person = row.person
    return MemberView(person.id, person.name, person.email, MemberRole(row.role), row.added_at)


def invitation_view(row: InvitationRow) -> InvitationView:
    return InvitationView(row.id, MemberRole(row.role), row.created_at, row.expires_at)


def invited_view(row: InvitationRow) -> Invited:
    return Invited(row.project.id, row.project.slug, row.project.name, MemberRole(row.role))

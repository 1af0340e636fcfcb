"""How much a project may store."""

from modelshare.server.accounts.tables import ProjectRow
from modelshare.server.settings import Settings


def quota_of(project: ProjectRow, settings: Settings) -> int:
    """In bytes: the project's own quota, or the platform's default."""
    return settings.projects_quota_bytes if project.quota_bytes is None else project.quota_bytes

"""`/v1/project`: the project of the key, and its settings."""

from modelshare.client.call import Call, Resource, Transport, get, patch, sent
from modelshare.wire.keys import Project, ProjectSettings

PATH = "/v1/project"


class OwnProject(Resource[Transport]):
    @sent
    def get(self) -> Call[Project]:
        return get(PATH, Project)

    @sent
    def update(self, changes: ProjectSettings) -> Call[Project]:
        """Sets the project's budget and what it requires of signatures. Fields that `changes` leaves out stay."""
        return patch(PATH, Project, changes)

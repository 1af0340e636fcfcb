"""terms: what is stored under names that changed"""

import json
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

ACTIONS: Final = (
    ("member.role", "member.change_role"),
    ("model.audience", "model.change_audience"),
    ("model.role_change", "model.change_role"),
    ("person.admin", "person.set_admin"),
    ("person.password", "person.change_password"),
    ("project.quota", "project.change_quota"),
    ("agent.release", "agent.delete_weights"),
    ("release.close", "weight_deletion.close"),
)
EVENT: Final = ("agent.released", "agent.weights_deleted")
INDEXES: Final = ("model_id", "agent_id")


def upgrade() -> None:
    for old, new in ACTIONS:
        _rename_action(old, new)
    _rename_event(*EVENT)
    _rename_table("releases", "weight_deletions")


def downgrade() -> None:
    _rename_table("weight_deletions", "releases")
    _rename_event(*reversed(EVENT))
    for old, new in ACTIONS:
        _rename_action(new, old)


def _rename_action(old: str, new: str) -> None:
    op.execute(sa.text("UPDATE audit_log SET action = :new WHERE action = :old").bindparams(new=new, old=old))


def _rename_event(old: str, new: str) -> None:
    """In the events that webhooks ask for."""
    connection = op.get_bind()
    for webhook, stored in connection.execute(sa.text("SELECT id, events FROM webhooks")).all():
        events = json.loads(stored) if isinstance(stored, str) else stored
        if old in events:
            renamed = json.dumps([new if event == old else event for event in events])
            statement = "UPDATE webhooks SET events = CAST(:events AS JSONB) WHERE id = :id"
            if connection.dialect.name == "sqlite":
                statement = "UPDATE webhooks SET events = :events WHERE id = :id"
            connection.execute(sa.text(statement), {"events": renamed, "id": webhook})


def _rename_table(old: str, new: str) -> None:
    """By a copy: SQLite cannot rename the primary key's constraint."""
    op.create_table(
        new,
        sa.Column("deployment_id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("deployment_id", name=op.f(f"pk_{new}")),
    )
    columns = "deployment_id, agent_id, project_id, model_id, version, asked_at, confirmed_at, closed_at"
    op.execute(f"INSERT INTO {new} ({columns}) SELECT {columns} FROM {old}")  # noqa: S608 - names of ours
    op.drop_table(old)
    for column in INDEXES:
        op.create_index(f"ix_{new}_{column}", new, [column])

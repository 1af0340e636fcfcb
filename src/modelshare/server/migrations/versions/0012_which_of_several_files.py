"""which of a version's files is the model"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("model_versions", sa.Column("file", sa.String(), nullable=True))
    op.add_column("endpoints", sa.Column("file", sa.String(), nullable=True))
    op.add_column("serving", sa.Column("file", sa.String(), server_default="", nullable=False))
    op.add_column("deployments", sa.Column("file", sa.String(), server_default="", nullable=False))
    with op.batch_alter_table("deployments") as deployments:
        deployments.drop_constraint("uq_deployments_agent_id_version_id", type_="unique")
        deployments.create_unique_constraint(
            "uq_deployments_agent_id_version_id_file", ["agent_id", "version_id", "file"]
        )


def downgrade() -> None:
    op.execute("DELETE FROM deployments WHERE file <> ''")
    with op.batch_alter_table("deployments") as deployments:
        deployments.drop_constraint("uq_deployments_agent_id_version_id_file", type_="unique")
        deployments.create_unique_constraint("uq_deployments_agent_id_version_id", ["agent_id", "version_id"])
    op.drop_column("deployments", "file")
    op.drop_column("serving", "file")
    op.drop_column("endpoints", "file")
    op.drop_column("model_versions", "file")

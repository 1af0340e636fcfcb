"""models whose files stay on their owners' machines"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_holder", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.create_check_constraint(
            batch_op.f("ck_agents_holders_are_private"), "project_id IS NOT NULL OR NOT is_holder"
        )

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("digests", sa.String(), server_default="platform", nullable=False))
        batch_op.create_check_constraint(batch_op.f("ck_model_versions_digests"), "digests IN ('platform', 'holder')")

    with op.batch_alter_table("storages", schema=None) as batch_op:
        batch_op.add_column(sa.Column("holder_id", sa.Uuid(), nullable=True))
        batch_op.create_check_constraint(batch_op.f("ck_storages_held"), "(kind = 'held') = (holder_id IS NOT NULL)")


def downgrade() -> None:
    with op.batch_alter_table("storages", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_storages_held"), type_="check")
        batch_op.drop_column("holder_id")

    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_model_versions_digests"), type_="check")
        batch_op.drop_column("digests")

    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_agents_holders_are_private"), type_="check")
        batch_op.drop_column("is_holder")

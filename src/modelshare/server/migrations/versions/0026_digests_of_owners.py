"""digests that only the owner of a bucket has computed"""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    _allow("'platform', 'holder', 'owner'")


def downgrade() -> None:
    op.execute("UPDATE model_versions SET digests = 'platform' WHERE digests = 'owner'")
    _allow("'platform', 'holder'")


def _allow(values: str) -> None:
    with op.batch_alter_table("model_versions", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_model_versions_digests"), type_="check")
        batch_op.create_check_constraint(batch_op.f("ck_model_versions_digests"), f"digests IN ({values})")

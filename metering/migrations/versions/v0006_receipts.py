"""The receipt of a request, and the public keys that have signed receipts; rows from before have none."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("requests", sa.Column("receipt", sa.Text))
    op.create_table(
        "receipt_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("x", sa.Text, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
    )

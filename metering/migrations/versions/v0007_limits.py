"""What API keys have taken of their limits: the windows, and the leases of servers."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    window = [("key", sa.Text), ("kind", sa.Text), ("begun_ms", sa.BigInteger)]
    op.create_table(
        "limit_windows",
        *(sa.Column(name, kind, primary_key=True) for name, kind in window),
        sa.Column("before", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "limit_leases",
        *(sa.Column(name, kind, primary_key=True) for name, kind in window),
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("leased", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("spent", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("limit_leases_by_owner", "limit_leases", ["owner"])

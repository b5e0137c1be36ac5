"""What a request cost, and the prices it was billed by; rows from before have none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("requests", sa.Column("cost_nano_usd", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("requests", sa.Column("price_version", sa.Text))
    for kind in ("prompt", "cached", "thinking", "answer", "verifier"):
        op.add_column("requests", sa.Column(f"price_{kind}", sa.BigInteger))

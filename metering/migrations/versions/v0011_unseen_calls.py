"""Chains of a request of which the end of a call was not seen; nobody knows it of rows from before, which have 0."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("requests", sa.Column("unseen_calls", sa.BigInteger, nullable=False, server_default="0"))

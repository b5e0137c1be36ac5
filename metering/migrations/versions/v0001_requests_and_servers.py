"""A row for each request, counted in tokens, and a row for each server process that writes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _count(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("begun_ms", sa.BigInteger, nullable=False),
        sa.Column("settled_ms", sa.BigInteger),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("verifier", sa.Text),
        sa.Column("budget_asked", sa.BigInteger),
        sa.Column("budget", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        *map(_count, ("chains", "prompt", "cached", "thinking", "answer", "verifier_tokens")),
        *map(_count, ("discarded", "wasted", "samples", "uncertain")),
        sa.Column("stopped_by", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("seconds", sa.Double),
        sa.Column("user", sa.Text),
        sa.Column("metadata", sa.JSON(none_as_null=True)),
    )
    op.create_index("requests_by_time", "requests", ["begun_ms"])
    op.create_index("requests_by_key", "requests", ["key", "begun_ms"])
    op.create_index("requests_by_user", "requests", ["user"])
    op.create_index("requests_by_owner", "requests", ["owner", "settled_ms"])
    op.create_table(
        "servers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
    )

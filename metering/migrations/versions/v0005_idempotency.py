"""The run that an `Idempotency-Key` has, and what is kept of its answer."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("wanted", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("outcome", sa.Text),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("answer_until_ms", sa.BigInteger),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("idempotency_by_end", "idempotency", ["until_ms"])
    op.create_index("idempotency_by_answer", "idempotency", ["answer_until_ms"])
    op.create_index("idempotency_by_request", "idempotency", ["request"])

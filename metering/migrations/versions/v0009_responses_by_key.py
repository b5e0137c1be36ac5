"""Kept responses are found by their key and age: of each key the oldest go where it has too many."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index("responses_by_key", "responses", ["key", "begun_ms"])

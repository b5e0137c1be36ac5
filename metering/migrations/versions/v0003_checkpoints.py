"""How far behind a server's rows may be, by its own settings; servers from before had these unless told otherwise."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("servers", sa.Column("checkpoint", sa.BigInteger, nullable=False, server_default="256"))

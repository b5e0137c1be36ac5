"""How alembic runs the versions: on the connection it is given, inside that one's transaction."""

from alembic import context

from ponder.metering.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()

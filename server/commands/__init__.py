"""The subcommands of `ponder` that want the server."""

"""`ponder record`: samples of a running server, kept as a pool."""

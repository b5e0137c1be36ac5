"""The server on Ray Serve: a cluster of this machine alone, and engines that write without a model."""

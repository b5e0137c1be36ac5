"""HTTP itself: sockets, the protocol, bodies with their bounds, the way out of a stream."""

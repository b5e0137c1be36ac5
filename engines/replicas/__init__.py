"""vLLM's own servers, as anybody starts them, used by their addresses: one is an `Engine`."""

"""Requests with an `Idempotency-Key`, answered once."""

"""Suites of other authors against this server, unchanged: `make conformance`."""

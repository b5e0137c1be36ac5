"""Engines and reward models as deployments of Ray Serve: Serve starts, places, watches and counts them, and the tokens
go over HTTP as to every replica elsewhere."""

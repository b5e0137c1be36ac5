"""Pages for people who run and try a server: a client of it, which speaks HTTP with the caller's key."""

from ponder import under_one_name

under_one_name(__name__)

"""What asks a server over HTTP: a client for Python and `ponder ask`."""

from ponder import under_one_name

under_one_name(__name__)

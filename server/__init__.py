"""The HTTP server: requests in any dialect, their plans, keys, limits and metrics."""

from ponder import under_one_name

under_one_name(__name__)

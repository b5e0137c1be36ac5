"""The HTTP server: requests in OpenAI's words, their plans, keys, limits and metrics."""

from ponder import under_one_name

under_one_name(__name__)

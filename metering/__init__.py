"""What is counted: the metrics of a server."""

from ponder import under_one_name

under_one_name(__name__)

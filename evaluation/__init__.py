"""What a thinking budget buys: strategies over recorded samples, question files over running servers."""

from ponder import under_one_name

under_one_name(__name__)

"""What writes text and scores it: vLLM, in this process or elsewhere, and recorded samples."""

from ponder import under_one_name

under_one_name(__name__)

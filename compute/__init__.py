"""The core: texts, budgets, contracts and the run of one request. Imports nothing of ours."""

from ponder import under_one_name

under_one_name(__name__)

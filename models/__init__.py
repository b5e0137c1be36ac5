"""The demo models, and the recipe that they are made by."""

from ponder import under_one_name

under_one_name(__name__)

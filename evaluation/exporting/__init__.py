"""`ponder export`: rollouts as training data."""

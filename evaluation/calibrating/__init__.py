"""`ponder calibrate`: a policy for a model, learned from its recorded samples."""

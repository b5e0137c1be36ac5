"""`ponder replay`: the strategies over recorded samples, without a model."""

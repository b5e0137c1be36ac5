"""`ponder plan`: formulas of what a load needs, and a model of many doors and replicas in events, a few for each
chain."""

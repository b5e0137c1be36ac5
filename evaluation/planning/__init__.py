"""A model of many doors and replicas in events, a few for each chain: what `ponder plan` reckons with."""

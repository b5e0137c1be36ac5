"""Monte Carlo tree search over the steps of a thought, as a package that Ponder finds by its entry point."""

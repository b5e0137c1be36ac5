"""`ponder compare`: strategies and budgets held against one another on a running server."""

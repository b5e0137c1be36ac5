"""Anthropic's Messages: its words, and where they meet those of the core (`dialect.py`)."""

"""OpenAI's Chat Completions: its words, and where they meet those of the core (`dialect.py`)."""

"""OpenAI's Responses: its words, and where they meet those of the core (`dialect.py`)."""

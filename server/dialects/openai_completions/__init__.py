"""OpenAI's Completions: raw texts that a model goes on with, without a conversation around them."""

"""The table of the APIs this server has. A new one is a package beside these, and a line here."""

from collections.abc import Sequence

from ponder.server.dialect import Dialect
from ponder.server.dialects.openai_chat.dialect import OpenAIChat

HOUSE = OpenAIChat()
"""Reads the keys and writes the errors of all routes that belong to no dialect (models, health, metrics, 404)."""
DIALECTS: Sequence[Dialect] = (HOUSE,)

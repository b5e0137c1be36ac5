"""The table of the APIs this server speaks. A new one is a package beside these, and a line here."""

from collections.abc import Sequence

from ponder.server.dialect import Dialect
from ponder.server.dialects.openai_chat.dialect import OpenAIChat

HOUSE = OpenAIChat()
"""Reads the keys and writes the errors of all pages that are no dialect's own (models, health, metrics, 404)."""
DIALECTS: Sequence[Dialect] = (HOUSE,)

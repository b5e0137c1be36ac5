"""What can be configured: every field with its description, its bounds and its default.

`ponder.example.toml` shows them all; `server/load_settings.py` reads them.
"""

from __future__ import annotations

from ponder.server.settings.engine import EngineSettings, RewardEngineSettings
from ponder.server.settings.idempotency import IdempotencySettings
from ponder.server.settings.key_limits import KeyLimits
from ponder.server.settings.keys import KeySettings, KeyTerms, Scope
from ponder.server.settings.ledger import LedgerSettings
from ponder.server.settings.limits import Limits
from ponder.server.settings.model import Chosen, ModelSettings
from ponder.server.settings.prices import PriceBook
from ponder.server.settings.receipts import ReceiptSettings
from ponder.server.settings.responses import ResponseSettings
from ponder.server.settings.sealed_thoughts import SealedThoughtSettings
from ponder.server.settings.server import EFFORT, PREFIX, Settings, loopback
from ponder.server.settings.table import WrongSettings, nearest

__all__ = [
    "EFFORT",
    "PREFIX",
    "Chosen",
    "EngineSettings",
    "IdempotencySettings",
    "KeyLimits",
    "KeySettings",
    "KeyTerms",
    "LedgerSettings",
    "Limits",
    "ModelSettings",
    "PriceBook",
    "ReceiptSettings",
    "ResponseSettings",
    "RewardEngineSettings",
    "Scope",
    "SealedThoughtSettings",
    "Settings",
    "WrongSettings",
    "loopback",
    "nearest",
]
